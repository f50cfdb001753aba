// Views of CUDA arrays as NumPy makes them.
#include "bindings/cuda_view.h"

#include <string>

namespace fastconv {
namespace {

char* moved(const CudaArray& array, std::int64_t elems) {
    return static_cast<char*>(array.data) + elems * array.item_bytes();
}

std::int64_t item_index(py::handle key, std::int64_t size, std::size_t axis) {
    const Py_ssize_t given = PyNumber_AsSsize_t(key.ptr(), PyExc_IndexError);
    if (given == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (given < -size || given >= size)
        throw py::index_error("index " + std::to_string(given) + " is out of bounds for axis " +
                              std::to_string(axis) + " with size " + std::to_string(size));
    return given < 0 ? given + size : given;
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text = "(";
    for (std::size_t d = 0; d < shape.size(); ++d)
        text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

CudaArray view_of(const CudaArray& array, const py::object& key) {
    const py::tuple keys =
        py::isinstance<py::tuple>(key) ? py::reinterpret_borrow<py::tuple>(key) : py::make_tuple(key);
    std::size_t used = 0, ellipses = 0;
    for (const py::handle k : keys) {
        if (k.is(py::ellipsis()))
            ++ellipses;
        else if (!k.is_none())
            ++used;
    }
    const std::size_t rank = array.shape.size();
    if (ellipses > 1) throw py::index_error("an index can only have a single ellipsis ('...')");
    if (used > rank)
        throw py::index_error("too many indices: the array has " + std::to_string(rank) +
                              " dimensions, but " + std::to_string(used) + " were indexed");
    CudaArray view = array;
    view.shape.clear();
    view.elems.clear();
    std::int64_t first = 0;
    std::size_t axis = 0;
    auto keep = [&](std::size_t count) {
        for (; count > 0; --count, ++axis) {
            view.shape.push_back(array.shape[axis]);
            view.elems.push_back(array.elems[axis]);
        }
    };
    for (const py::handle k : keys) {
        if (k.is(py::ellipsis())) {
            keep(rank - used);
        } else if (k.is_none()) {
            view.shape.push_back(1);
            view.elems.push_back(0);
        } else if (py::isinstance<py::slice>(k)) {
            Py_ssize_t start, stop, step;
            if (PySlice_Unpack(k.ptr(), &start, &stop, &step) < 0) throw py::error_already_set();
            const Py_ssize_t count =
                PySlice_AdjustIndices(array.shape[axis], &start, &stop, step);
            if (count > 0) first += start * array.elems[axis];
            view.shape.push_back(count);
            view.elems.push_back(array.elems[axis] * step);
            ++axis;
        } else if (PyIndex_Check(k.ptr()) && !PyBool_Check(k.ptr())) {
            first += item_index(k, array.shape[axis], axis) * array.elems[axis];
            ++axis;
        } else {
            throw py::type_error("CUDA arrays are indexed by integers, slices, None and Ellipsis, "
                                 "not by " + std::string(py::str(py::type::of(k).attr("__name__"))));
        }
    }
    keep(rank - axis);
    view.data = moved(array, first);
    return view;
}

CudaArray transposed(const CudaArray& array, std::vector<std::int64_t> axes) {
    const auto rank = static_cast<std::int64_t>(array.shape.size());
    if (axes.empty())
        for (std::int64_t d = rank; d-- > 0;) axes.push_back(d);
    CudaArray view = array;
    std::vector<bool> seen(static_cast<std::size_t>(rank), false);
    bool right = static_cast<std::int64_t>(axes.size()) == rank;
    for (std::size_t d = 0; right && d < axes.size(); ++d) {
        const std::int64_t axis = axes[d] < 0 ? axes[d] + rank : axes[d];
        right = axis >= 0 && axis < rank && !seen[static_cast<std::size_t>(axis)];
        if (!right) break;
        seen[static_cast<std::size_t>(axis)] = true;
        view.shape[d] = array.shape[static_cast<std::size_t>(axis)];
        view.elems[d] = array.elems[static_cast<std::size_t>(axis)];
    }
    if (!right)
        throw py::value_error("axes " + shape_text(axes) + " are no order of the " +
                              std::to_string(rank) + " dimensions of the array");
    return view;
}

std::optional<CudaArray> reshaped(const CudaArray& array, std::vector<std::int64_t>& shape) {
    std::int64_t known = 1;
    std::int64_t* open = nullptr;
    bool right = true;
    for (std::int64_t& size : shape) {
        if (size == -1 && !open)
            open = &size;
        else if (size < 0)
            right = false;
        else
            known *= size;
    }
    const std::int64_t count = array.size();
    if (right && open && known > 0 && count % known == 0) *open = count / known;
    else if (open || known != count) right = false;
    if (!right)
        throw py::value_error("cannot reshape an array of shape " + shape_text(array.shape) +
                              " into shape " + shape_text(shape));
    CudaArray view = array;
    view.shape = shape;
    view.elems.assign(shape.size(), 0);
    if (count == 0) {
        std::int64_t within = 1;
        for (std::size_t d = shape.size(); d-- > 0; within *= std::max<std::int64_t>(shape[d], 1))
            view.elems[d] = within;
        return view;
    }
    // Runs of old dimensions against runs of new ones with the same product, from the first on. A run
    // can be cut anew where its old dimensions follow each other without gaps.
    std::vector<std::int64_t> old_shape, old_elems;
    for (std::size_t d = 0; d < array.shape.size(); ++d)
        if (array.shape[d] != 1) {
            old_shape.push_back(array.shape[d]);
            old_elems.push_back(array.elems[d]);
        }
    std::size_t o = 0, n = 0;
    while (n < shape.size() && o < old_shape.size()) {
        const std::size_t o_begin = o, n_begin = n;
        std::int64_t of_old = old_shape[o++], of_new = shape[n++];
        while (of_old != of_new) {
            if (of_old < of_new)
                of_old *= old_shape[o++];
            else
                of_new *= shape[n++];
        }
        for (std::size_t d = o_begin; d + 1 < o; ++d)
            if (old_elems[d] != old_elems[d + 1] * old_shape[d + 1]) return std::nullopt;
        std::int64_t within = old_elems[o - 1];
        for (std::size_t d = n; d-- > n_begin;) {
            view.elems[d] = within;
            within *= shape[d];
        }
    }
    for (; n < shape.size(); ++n) view.elems[n] = 1;  // sizes of 1 are left
    return view;
}

CudaArray broadcast(const CudaArray& array, const std::vector<std::int64_t>& shape) {
    CudaArray view = array;
    view.shape = shape;
    view.elems.assign(shape.size(), 0);
    bool right = array.shape.size() <= shape.size();
    const std::size_t more = right ? shape.size() - array.shape.size() : 0;
    for (std::size_t d = 0; right && d < array.shape.size(); ++d) {
        right = array.shape[d] == shape[more + d] || array.shape[d] == 1;
        if (array.shape[d] != 1) view.elems[more + d] = array.elems[d];
    }
    if (!right)
        throw py::value_error("could not broadcast an array of shape " + shape_text(array.shape) +
                              " into shape " + shape_text(shape));
    return view;
}

}  // namespace fastconv
