// The extension module _core and its submodule _core.cuda: lists of what each family binds, no
// arithmetic.
//
// The GIL is not needed for the module itself (mod_gil_not_used): there are no mutable globals
// without a lock of their own.
#include <pybind11/pybind11.h>

namespace fastconv {
#define FC_BIND(family) void bind_##family(pybind11::module_& module);
#include "bindings/families.def"
#undef FC_BIND
#define FC_BIND(family) void bind_cuda_##family(pybind11::module_& module);
#include "bindings/cuda_families.def"
#undef FC_BIND
}  // namespace fastconv

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "fastconv's kernels; use the functions of the package fastconv instead";
#define FC_BIND(family) fastconv::bind_##family(module);
#include "bindings/families.def"
#undef FC_BIND

    pybind11::module_ cuda = module.def_submodule("cuda", "The same in a GPU's memory");
#define FC_BIND(family) fastconv::bind_cuda_##family(cuda);
#include "bindings/cuda_families.def"
#undef FC_BIND
}
