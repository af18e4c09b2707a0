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
    Reading(BorrowedStaging& staging, const Built& built, const py::object& variables, const python::Names* names)
        : staging_(staging), built_(built), names_(names), are_given_(!variables.is_none()) {
        if (!are_given_) return;
        const py::tuple objects(variables);
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = describe_variable(i);
            const py::array array = variable_array(objects[i], who);
            staging_->variables.push_back(view(array, who));
            staging_->held.push_back(array);
        }
    }

    /// The gradients; then warns of those that are None.
    void read(const py::tuple& gradients) {
        const py::handle row_gradient = row_gradient_type();
        staging_->gradients.resize(gradients.size());
        staging_->has_rows = false;
        std::vector<std::string> missing;
        for (std::size_t i = 0; i < gradients.size(); ++i) {
            const py::handle object = PyTuple_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
            if (object.is_none()) {
                set_dense(i) = Tensor();
                missing.push_back(describe_variable(i));
            } else if (py::type::handle_of(object).is(row_gradient)) {
                read_rows(i, parts_of(object));
            } else if (!read_at_once(i, object, set_dense(i))) {
                read_object(i, object);
            }
        }
        if (!missing.empty() && missing.size() < gradients.size()) warn_of_missing(missing);
    }

private:
    std::string describe_variable(std::size_t i) const {
        if (are_given_) return "variable at position " + std::to_string(i);
        return built_.describe(names_ && names_->are_some ? names_->indices[i] : i);
    }

    std::string describe(std::size_t i) const {
        if (!are_given_) return "gradient of " + describe_variable(i);
        const auto index = i < staging_->variables.size() ? built_.find(staging_->variables[i]) : std::nullopt;
        return "gradient " + std::to_string(i) + (index ? ", of " + built_.describe(*index) : "");
    }

    // The variable that a gradient belongs to; none if there are more gradients.
    const Tensor* variable(std::size_t i) const {
        const std::vector<Tensor>& all = are_given_ ? staging_->variables : built_.tensors();
        const std::size_t index = names_ && names_->are_some ? names_->indices[i] : i;
        return index < all.size() ? &all[index] : nullptr;
    }

    Tensor& set_dense(std::size_t i) {
        if (staging_->has_rows && staging_->indices[i]) staging_->indices[i] = Tensor();
        return staging_->gradients[i];
    }

    // An array, or a tensor whose type says where it lies.
    bool read_at_once(std::size_t i, py::handle object, Tensor& gradient, const char* part = "") {
        if (is_plain_array(object)) {
            const std::optional<DType> dtype = dtypes_.of(object);
            if (!dtype) refuse_dtype(object, describe(i) + part);
            renew(gradient, object, *dtype);
            return true;
        }
        const auto memory = built_.gradient(i, object);
        if (memory) renew(gradient, *memory);
        return memory.has_value();
    }

    void read_converted(py::handle object, const std::string& who, Tensor& gradient) {
        const py::array array = gradient_array(object, who);
        gradient = view(array, who);
        staging_->held.push_back(array);
    }

    void read_object(std::size_t i, py::handle object) {
        const std::string who = describe(i);
        if (const std::optional<Rows> rows = sparse_parts_of(object, who)) {
            read_rows(i, *rows);
        } else {
            read_converted(object, who, staging_->gradients[i]);
        }
    }

    void read_rows(std::size_t i, const Rows& rows) {
        if (!staging_->has_rows) {
            staging_->has_rows = true;
            staging_->indices.resize(staging_->gradients.size());
            for (std::size_t before = 0; before < i; ++before) set_dense(before);
        }
        staging_->held.push_back(rows.values);
        staging_->held.push_back(rows.indices);
        constexpr const char* part = ", values";
        Tensor& values = staging_->gradients[i];
        if (!read_at_once(i, rows.values, values, part)) read_converted(rows.values, describe(i) + part, values);
        built_.read_indices(rows.indices, staging_->indices[i], staging_->held,
                            [&] { return describe(i) + ", indices"; });
        if (!rows.shape.is_none()) check_shape(i, rows.shape.cast<std::vector<std::int64_t>>());
    }

    void check_shape(std::size_t i, const std::vector<std::int64_t>& found) const {
        const Tensor* const expected = variable(i);
        if (!expected || std::ranges::equal(found, expected->shape())) return;
        throw std::invalid_argument(describe(i) + ": expected shape " + shape_text(expected->shape()) + ", found " +
                                    shape_text(found));
    }

    BorrowedStaging& staging_;
    const Built& built_;
    const python::Names* names_;
    bool are_given_;
    KnownDTypes dtypes_;
};

}  // namespace

void stage(BorrowedStaging& staging, const Built& built, const py::tuple& gradients, const py::object& variables,
           const python::Names* names) {
    Reading(staging, built, variables, names).read(gradients);
}

}  // namespace fusedopt::python
