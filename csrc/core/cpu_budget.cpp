// Affinity mask and cgroup quota; see cpu_budget.h. Follows the kernel's documents
// admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us, cpu.cfs_period_us).
#include "core/cpu_budget.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/cpu_mask.h"

namespace fastconv {
namespace {

// By C's files: C++ streams need a locale that another copy of libstdc++ in the process may spoil.
std::string file_text(const std::string& path) {
    std::string text;
    if (std::FILE* file = std::fopen(path.c_str(), "re")) {
        char block[4096];
        for (std::size_t n; (n = std::fread(block, 1, sizeof block, file)) > 0;) text.append(block, n);
        std::fclose(file);
    }
    return text;
}

// "200000 100000" -> 2; "max 100000", "-1 100000" and anything unreadable -> 0 (no limit).
int quota_cpus(const std::string& quota_and_period) {
    char* rest = nullptr;
    const long long quota = std::strtoll(quota_and_period.c_str(), &rest, 10);
    const long long period = std::strtoll(rest, nullptr, 10);
    if (quota <= 0 || period <= 0) return 0;
    return static_cast<int>(std::min<long long>((quota + period - 1) / period, CpuMask::kMaxCpus));
}

int smaller_limit(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// The smallest quota of `path` and its ancestors below `mount`.
int limit_along(const std::string& mount, std::string path, bool version2) {
    int limit = 0;
    for (;;) {
        const std::string directory = mount + (path == "/" ? "" : path);
        const std::string quota =
            version2 ? file_text(directory + "/cpu.max")
                     : file_text(directory + "/cpu.cfs_quota_us") + " " +
                           file_text(directory + "/cpu.cfs_period_us");
        limit = smaller_limit(limit, quota_cpus(quota));
        const auto slash = path.rfind('/');
        if (path.empty() || path == "/" || slash == std::string::npos) return limit;
        path.resize(slash);
    }
}

}  // namespace

int affinity_cpus() {
    CpuMask mask;
    if (mask.read_affinity(0)) return std::max(1, mask.count());
    return std::max(1u, std::thread::hardware_concurrency());
}

int cgroup_cpus(const std::string& membership, const std::string& root) {
    int limit = 0;
    for (std::size_t begin = 0; begin < membership.size();) {  // "hierarchy:controllers:path"
        const std::size_t end = std::min(membership.find('\n', begin), membership.size());
        const std::string line = membership.substr(begin, end - begin);
        begin = end + 1;
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            limit = smaller_limit(limit, limit_along(root, path, true));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            limit = smaller_limit(limit, limit_along(root + "/" + controllers, path, false));
            limit = smaller_limit(limit, limit_along(root + "/cpu", path, false));
        }
    }
    return limit;
}

int available_cpus() {
    return std::max(1, smaller_limit(affinity_cpus(), cgroup_cpus(file_text("/proc/self/cgroup"))));
}

}  // namespace fastconv
