// Machine probes for benchmarks and roofline bounds: FMA peak and read bandwidth, core to core.
#include <pybind11/pybind11.h>

#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/ping.h"
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

// Each thread reads its own stretch of the data again and again. The threads' own sums are kept, so
// that the reads must happen.
template <class T>
double read_rate(const cpu::ProbeKernels<T>& probe, double seconds, int threads, const T* data,
                 std::size_t elements) {
    const std::size_t share = elements / threads;
    std::vector<double> rates(threads), sums(threads);
    parallel_for(threads, threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const T* start_of_share = data + task * share;
        sums[task] = probe.read(start_of_share, share);  // into the caches, as far as it fits
        std::int64_t bytes = 0;
        const auto start = Clock::now();
        do {
            sums[task] += probe.read(start_of_share, share);
            bytes += static_cast<std::int64_t>(share * sizeof(T));
        } while (since(start) < seconds);
        rates[task] = static_cast<double>(bytes) / since(start);
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
    const std::vector<float> data(static_cast<std::size_t>(megabytes * 1e6 / sizeof(float)), 1.0f);
    return read_rate(*cpu::current_isa().f32.probe, seconds, threads, data.data(), data.size());
}

double probe_read_buffer(const py::buffer& buffer, double seconds, int threads) {
    const py::buffer_info info = buffer.request();
    if (info.ndim != 1 || info.strides[0] != info.itemsize || info.itemsize != sizeof(float))
        throw py::type_error("probe_read_buffer takes a contiguous 1-D float32 array");
    py::gil_scoped_release release;
    return read_rate(*cpu::current_isa().f32.probe, seconds, threads,
                     static_cast<const float*>(info.ptr), static_cast<std::size_t>(info.size));
}

}  // namespace

void bind_probe(py::module_& module) {
    module.def("probe_fma", &probe_fma, py::arg("seconds"), py::arg("threads"),
               py::arg("dtype") = "float32", "Floating-point operations a second, all threads");
    module.def("probe_read", &probe_read, py::arg("seconds"), py::arg("threads"),
               py::arg("megabytes") = 256.0, "Bytes read a second, all threads");
    module.def("probe_read_buffer", &probe_read_buffer, py::arg("buffer"), py::arg("seconds"),
               py::arg("threads"), "Bytes read a second from a float32 array, a share a thread");
    module.def("probe_ping", &ping_nanoseconds, py::arg("rounds") = 600,
               py::call_guard<py::gil_scoped_release>(),
               "Nanoseconds for a cache line to go to another core and back; 0 with one core");
    module.def("vector_lanes", [](const std::string& dtype) {
        const cpu::Isa& isa = cpu::current_isa();
        return dtype == "float64" ? isa.f64.probe->lanes : isa.f32.probe->lanes;
    }, py::arg("dtype") = "float32", "Elements in a register of the current instruction set");
}

}  // namespace fastconv
