// How many CPUs this process may use: what the scheduler's affinity mask and the cgroup's quota say.
#pragma once

#include <string>

namespace fastconv {

// CPUs of the affinity mask, but no more than the cgroup's quota rounded up; at least 1.
int available_cpus();

int affinity_cpus();  // at least 1

// CPUs that the quota of a cgroup (version 1 or 2) allows, rounded up; 0 if there is none.
// `membership` is the text of /proc/self/cgroup, `root` where the hierarchies are mounted. A quota
// holds for everything below it, so all ancestors count. In a container the path may name a
// directory that is only visible outside: then the root's own quota is this container's.
int cgroup_cpus(const std::string& membership, const std::string& root = "/sys/fs/cgroup");

}  // namespace fastconv
