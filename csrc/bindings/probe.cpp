// Machine probes for benchmarks and roofline bounds: FMA peak and read bandwidth.
#include <pybind11/pybind11.h>

#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "cpu/isa.h"
#include "cpu/kernels_probe.h"

namespace py = pybind11;

namespace fastconv {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

template <class T>
double fma_rate(const cpu::ProbeKernels<T>& probe, double seconds, int threads) {
    std::vector<double> rates(threads);
    parallel_for(threads, threads, FloatMode::kFlushDenormals, [&](std::int64_t task, int) {
        std::int64_t operations = 0;
        const auto start = Clock::now();
        do operations += probe.fma(10000);
        while (since(start) < seconds);
        rates[task] = static_cast<double>(operations) / since(start);
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

template <class T>
double read_rate(const cpu::ProbeKernels<T>& probe, double seconds, int threads, double megabytes) {
    const auto elements = static_cast<std::size_t>(megabytes * 1e6 / sizeof(T) / threads);
    std::vector<double> rates(threads), sums(threads);
    parallel_for(threads, threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::vector<T> data(elements, T(1));
        std::int64_t bytes = 0;
        double sum = 0;
        const auto start = Clock::now();
        do {
            sum += probe.read(data.data(), elements);
            bytes += static_cast<std::int64_t>(elements * sizeof(T));
        } while (since(start) < seconds);
        rates[task] = static_cast<double>(bytes) / since(start);
        sums[task] = sum;
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

double probe_fma(double seconds, int threads, const std::string& dtype) {
    py::gil_scoped_release release;
    const cpu::Isa& isa = cpu::current_isa();
    return dtype == "float64" ? fma_rate(*isa.f64.probe, seconds, threads)
                              : fma_rate(*isa.f32.probe, seconds, threads);
}

double probe_read(double seconds, int threads, double megabytes) {
    py::gil_scoped_release release;
    return read_rate(*cpu::current_isa().f32.probe, seconds, threads, megabytes);
}

}  // namespace

void bind_probe(py::module_& module) {
    module.def("probe_fma", &probe_fma, py::arg("seconds"), py::arg("threads"),
               py::arg("dtype") = "float32", "Floating-point operations a second, all threads");
    module.def("probe_read", &probe_read, py::arg("seconds"), py::arg("threads"),
               py::arg("megabytes") = 256.0, "Bytes read a second, all threads");
    module.def("vector_lanes", [](const std::string& dtype) {
        const cpu::Isa& isa = cpu::current_isa();
        return dtype == "float64" ? isa.f64.probe->lanes : isa.f32.probe->lanes;
    }, py::arg("dtype") = "float32", "Elements in a register of the current instruction set");
}

}  // namespace fastconv
