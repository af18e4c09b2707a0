#include "built.hpp"

#include <optional>

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
    staging_->converted.clear();
    idle_staging = std::move(staging_);
}

void Built::refuse_memory(std::size_t index) const {
    if (arrays_[index].data() != memory_[index]) {
        throw std::invalid_argument(describe(index) +
                                    ": expected the memory it was built with, found it moved; build a " +
                                    "new optimizer on it");
    }
    throw std::invalid_argument(describe(index) + ": expected writable memory, found it made read-only after build; " +
                                "set its flags.writeable to True");
}

void stage(BorrowedStaging& staging, const Built& built, const py::tuple& gradients, const py::object& variables) {
    const bool in_built_order = variables.is_none();
    const py::tuple variable_objects = in_built_order ? py::tuple() : py::tuple(variables);
    built.check_memory();

    std::vector<std::string> missing;
    for (std::size_t i = 0; i < variable_objects.size(); ++i) {
        const std::string who = "variable at position " + std::to_string(i);
        staging->converted.push_back(variable_array(variable_objects[i], who));
        staging->variables.push_back(view(staging->converted.back(), who));
    }
    KnownDTypes dtypes;
    staging->gradients.resize(gradients.size());
    for (std::size_t i = 0; i < gradients.size(); ++i) {
        const py::handle object = PyTuple_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
        Tensor& gradient = staging->gradients[i];
        if (object.is_none()) {
            gradient = Tensor();
            missing.push_back(in_built_order ? built.describe(i) : "variable at position " + std::to_string(i));
        } else if (py::isinstance<py::array>(object)) {
            const std::optional<DType> dtype = dtypes.of(object);
            if (!dtype) refuse_dtype(object, built.describe_gradient(i, in_built_order));
            renew(gradient, object, *dtype);
        } else {
            const std::string who = built.describe_gradient(i, in_built_order);
            staging->converted.push_back(gradient_array(object, who));
            gradient = view(staging->converted.back(), who);
        }
    }
    if (!missing.empty() && missing.size() < gradients.size()) warn_of_missing(missing);
}

}  // namespace fusedopt::python
