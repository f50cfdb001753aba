// A program: calls of kernels, prepared once, that run one after the other in one call.
//
//     recorded   [ conv | conv | pool | conv + residual | ... | linear ]     each with its plan
//     run()        -->    -->    -->         -->                 -->
//
// A step has its plan and its pointers inside; it runs with the bits that its function gives when it
// is called by itself. Steps share one workspace, the largest that any of them asks for. What the
// pointers point to belongs to others and must outlive the program. One run at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace fastconv {

class Program {
public:
    using Step = std::function<void(void* workspace)>;

    void add(std::size_t workspace_bytes, Step step);
    std::size_t size() const { return steps_.size(); }
    void run() const;
    void run_timed(double* seconds) const;  // run(), and what each step took

private:
    std::vector<Step> steps_;
    std::size_t workspace_bytes_ = 0;
};

}  // namespace fastconv
