// The extension module _core: a list of what each family binds, no arithmetic.
//
// The GIL is not needed for the module itself (mod_gil_not_used): there are no mutable globals
// without a lock of their own.
#include <pybind11/pybind11.h>

#define FC_BIND(family) void bind_##family(pybind11::module_& module);
namespace fastconv {
#include "bindings/families.def"
}
#undef FC_BIND

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "fastconv's kernels; use the functions of the package fastconv instead";
#define FC_BIND(family) fastconv::bind_##family(module);
#include "bindings/families.def"
#undef FC_BIND
}
