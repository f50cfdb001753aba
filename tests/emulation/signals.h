// Faults of device code (an access to a guard page, a division by zero) end the launch, not the
// process; faults of other code go where they went before.
#pragma once

#include <csignal>

namespace emulation {

/// Once for the process, and an alternate stack once for each operating system thread.
void install_signal_handlers();

}  // namespace emulation
