#include "rows.hpp"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/numpy.h>

#include "conversion.hpp"
#include "gil.hpp"
#include "interned.hpp"

namespace fusedopt::python {
namespace {

struct Package {
    py::object row_gradient;
    py::object parts_of;
    py::str values;
    py::str indices;
    py::str is_sparse;
};

const Package& package() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Package> storage;
    const auto make = [] {
        return Package{py::module_::import("fusedopt.row_gradient").attr("RowGradient"),
                       py::module_::import("fusedopt.sparse_gradients").attr("parts_of"), interned("values"),
                       interned("indices"), interned("is_sparse")};
    };
    return storage.call_once_and_store_result(make).get_stored();
}

// What gives an array is dense, but for PyTorch's sparse tensors, which only promise one.
bool may_be_sparse(py::handle object) {
    if (py::isinstance<py::array>(object)) return false;
    return !offers_memory(object) ||
           py::object(py::getattr(object, package().is_sparse, py::none())).is(py::bool_(true));
}

}  // namespace

py::handle row_gradient_type() {
    return package().row_gradient;
}

Rows parts_of(py::handle row_gradient) {
    return {row_gradient.attr(package().values), row_gradient.attr(package().indices), py::none()};
}

std::optional<Rows> sparse_parts_of(py::handle object, const std::string& who) {
    if (!may_be_sparse(object)) return std::nullopt;
    const py::object parts = call(package().parts_of, object, py::str(who));
    if (parts.is_none()) return std::nullopt;
    return Rows{parts[py::int_(0)], parts[py::int_(1)], parts[py::int_(2)]};
}

std::optional<Rows> rows_of(py::handle object, const std::string& who) {
    if (py::type::handle_of(object).is(row_gradient_type())) return parts_of(object);
    return sparse_parts_of(object, who);
}

}  // namespace fusedopt::python
