#include "staging.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "rows.hpp"

namespace fusedopt::python {
namespace {

thread_local std::unique_ptr<Staging> idle_staging;

void warn_of_missing(const std::vector<std::string>& missing) {
    std::string list;
    for (const std::string& name : missing) list += (list.empty() ? "" : ", ") + name;
    const std::string text = "No gradient for " + list + "; left as it is in this step.";
    warn(PyExc_UserWarning, text);
}

}  // namespace

BorrowedStaging::BorrowedStaging() : staging_(std::move(idle_staging)) {
    if (!staging_) staging_ = std::make_unique<Staging>();
}

BorrowedStaging::~BorrowedStaging() {
    staging_->variables.clear();
    staging_->held.clear();
    idle_staging = std::move(staging_);
}

namespace {

/// Reads the objects of one call into the staging area.
class Reading {
public:
    Reading(Staging& staging, const Built& built, const py::object& variables, const python::Names* names)
        : staging_(staging), built_(built), names_(names), are_given_(!variables.is_none()) {
        if (!are_given_) return;
        const py::tuple objects(variables);
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = describe_variable(i);
            const py::array array = variable_array(objects[i], who);
            staging_.variables.push_back(view(array, who, Elements::variable));
            staging_.held.push_back(array);
        }
    }

    /// The gradients; then warns of those that are None.
    void read(const py::tuple& gradients) {
        const py::handle row_gradient = row_gradient_type();
        const std::size_t count = gradients.size();
        staging_.is_mixed = std::exchange(staging_.has_rows, false);
        staging_.is_mixed ? staging_.mixed.resize(count) : staging_.dense.resize(count);
        std::vector<std::string> missing;
        for (std::size_t i = 0; i < count; ++i) {
            const py::handle object = PyTuple_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
            if (object.is_none()) {
                dense(i) = Tensor();
                missing.push_back(describe_variable(i));
            } else if (is_plain_array(object)) {
                read_array(i, object, dense(i));
            } else if (py::type::handle_of(object).is(row_gradient)) {
                read_rows(i, parts_of(object), count);
            } else if (!read_tensor(i, object, dense(i))) {
                read_object(i, object, count);
            }
        }
        if (!missing.empty() && missing.size() < count) warn_of_missing(missing);
    }

private:
    std::string describe_variable(std::size_t i) const {
        if (are_given_) return "variable at position " + std::to_string(i);
        return built_.describe(names_ && names_->are_some ? names_->indices[i] : i);
    }

    std::string describe(std::size_t i) const {
        if (!are_given_) return "gradient of " + describe_variable(i);
        const auto index = i < staging_.variables.size() ? built_.find(staging_.variables[i]) : std::nullopt;
        return "gradient " + std::to_string(i) + (index ? ", of " + built_.describe(*index) : "");
    }

    // The variable that a gradient belongs to; none if there are more gradients.
    const Tensor* variable(std::size_t i) const {
        const std::vector<Tensor>& all = are_given_ ? staging_.variables : built_.tensors();
        const std::size_t index = names_ && names_->are_some ? names_->indices[i] : i;
        return index < all.size() ? &all[index] : nullptr;
    }

    // Where a dense gradient goes.
    Tensor& dense(std::size_t i) {
        if (!staging_.is_mixed) return staging_.dense[i];
        Gradient& gradient = staging_.mixed[i];
        if (gradient.indices) gradient.indices = Tensor();
        return gradient.values;
    }

    // Where one of rows goes.
    Gradient& mixed(std::size_t i, std::size_t count) {
        staging_.has_rows = true;
        if (!std::exchange(staging_.is_mixed, true)) {
            staging_.mixed.resize(count);
            for (std::size_t before = 0; before < i; ++before) dense(before) = staging_.dense[before];
        }
        return staging_.mixed[i];
    }

    void read_array(std::size_t i, py::handle array, Tensor& gradient, const char* part = "") {
        const std::optional<DType> dtype = dtypes_.of(array);
        if (!dtype) refuse_dtype(array, describe(i) + part);
        renew(gradient, array, *dtype);
    }

    // If its type says where it lies.
    bool read_tensor(std::size_t i, py::handle tensor, Tensor& gradient) {
        const auto memory = built_.gradient(i, tensor);
        if (memory) renew(gradient, *memory);
        return memory.has_value();
    }

    void read_converted(py::handle object, const std::string& who, Tensor& gradient) {
        const py::array array = gradient_array(object, who);
        gradient = view(array, who);
        staging_.held.push_back(array);
    }

    void read_object(std::size_t i, py::handle object, std::size_t count) {
        const std::string who = describe(i);
        if (const std::optional<Rows> rows = sparse_parts_of(object, who)) {
            read_rows(i, *rows, count);
        } else {
            read_converted(object, who, dense(i));
        }
    }

    void read_rows(std::size_t i, const Rows& rows, std::size_t count) {
        staging_.held.push_back(rows.values);
        staging_.held.push_back(rows.indices);
        Gradient& gradient = mixed(i, count);
        constexpr const char* part = ", values";
        refuse_swapped(i, rows);
        if (is_plain_array(rows.values)) {
            read_array(i, rows.values, gradient.values, part);
        } else if (!read_tensor(i, rows.values, gradient.values)) {
            read_converted(rows.values, describe(i) + part, gradient.values);
        }
        built_.read_indices(rows.indices, gradient.indices, staging_.held, [&] { return describe(i) + ", indices"; });
        if (!rows.shape.is_none()) check_shape(i, rows.shape.cast<std::vector<std::int64_t>>());
    }

    void refuse_swapped(std::size_t i, const Rows& rows) const {
        if (!is_plain_array(rows.values) || !is_plain_array(rows.indices)) return;
        if (python::index_dtype_of(rows.values) && KnownDTypes().of(rows.indices)) {
            throw py::type_error(describe(i) +
                                 ": expected RowGradient(values, indices), found indices in the place of the values; "
                                 "swap the two");
        }
    }

    void check_shape(std::size_t i, const std::vector<std::int64_t>& found) const {
        const Tensor* const expected = variable(i);
        if (!expected || std::ranges::equal(found, expected->shape())) return;
        throw std::invalid_argument(describe(i) + ": expected shape " + shape_text(expected->shape()) + ", found " +
                                    shape_text(found));
    }

    Staging& staging_;
    const Built& built_;
    const python::Names* names_;
    bool are_given_;
    KnownDTypes dtypes_;
};

}  // namespace

void stage(BorrowedStaging& staging, const Built& built, const py::tuple& gradients, const py::object& variables,
           const python::Names* names) {
    Reading(*staging, built, variables, names).read(gradients);
}

}  // namespace fusedopt::python
