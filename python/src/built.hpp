// The variables an optimizer was built on, and a call of apply on its way from Python objects to the core.
#pragma once

#include <fusedopt/tensor.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedopt::python {

/// The staging area of a call, kept by its thread so that a step allocates nothing.
struct Staging {
    std::vector<Tensor> gradients;  // those of the last call, until they are renewed
    std::vector<Tensor> variables;
    std::vector<py::array> converted;  // arrays made from other objects, alive until the step is done
};

class BorrowedStaging {
public:
    BorrowedStaging();
    ~BorrowedStaging();
    BorrowedStaging(const BorrowedStaging&) = delete;
    BorrowedStaging& operator=(const BorrowedStaging&) = delete;
    Staging* operator->() { return staging_.get(); }

private:
    std::unique_ptr<Staging> staging_;
};

/// The variables given to build: their arrays keep the memory alive.
class Built {
public:
    /// Calls build with the views of these objects and without the GIL, then keeps them.
    template <class Build>
    void build(const py::sequence& objects, std::vector<std::string> names, const Build& build) {
        warn_of_environment();
        std::vector<py::array> arrays;
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = "variable " + std::to_string(i) + (names.empty() ? "" : " ('" + names[i] + "')");
            arrays.push_back(variable_array(objects[i], who));
            tensors.push_back(view(arrays.back(), who));
        }
        {
            const Unlocked unlocked;
            build(tensors, names);
        }
        keep(std::move(arrays), std::move(names));
    }

    void keep(std::vector<py::array> arrays, std::vector<std::string> names) {
        arrays_ = std::move(arrays);
        names_ = std::move(names);
        memory_.clear();
        locks_.clear();
        for (const py::array& array : arrays_) {
            memory_.push_back(array.data());
            locks_.emplace_back(py::handle(array));
        }
    }

    std::string describe(std::size_t index) const {
        return "variable " + std::to_string(index) + (index < names_.size() ? " ('" + names_[index] + "')" : "");
    }

    std::string describe_gradient(std::size_t position, bool in_built_order) const {
        return in_built_order ? "gradient of " + describe(position) : "gradient " + std::to_string(position);
    }

    /// An array's memory can be swapped behind everybody's back, by __setstate__ for one, and made read-only.
    void check_memory() const {
        for (std::size_t i = 0; i < arrays_.size(); ++i) {
            const auto* fields = py::detail::array_proxy(arrays_[i].ptr());
            const bool is_writable = fields->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
            if (fields->data != memory_[i] || !is_writable) refuse_memory(i);
        }
    }

    const std::vector<py::array>& arrays() const { return arrays_; }
    const std::vector<std::string>& names() const { return names_; }

private:
    [[noreturn]] void refuse_memory(std::size_t index) const;

    std::vector<py::array> arrays_;
    std::vector<std::string> names_;
    std::vector<const void*> memory_;
    // NumPy does not resize an array that has weak references. To ask for its size in each step made steps on many
    // small arrays up to half as long again: NumPy keeps it beside some array's elements.
    std::vector<py::weakref> locks_;
};

/// Reads the objects of a call into the staging area; warns of gradients that are None.
void stage(BorrowedStaging& staging, const Built& built, const py::tuple& gradients, const py::object& variables);

/// Calls step with views of gradients and, where given, variables, and without the GIL.
template <class Step>
auto call_step(const Built& built, const py::object& gradients, const py::object& variables, const Step& step) {
    const py::tuple held(gradients);  // a list could change while the GIL is released
    BorrowedStaging staging;
    stage(staging, built, held, variables);
    const Unlocked unlocked;
    return variables.is_none() ? step(std::span<const Tensor>(staging->gradients), nullptr)
                               : step(std::span<const Tensor>(staging->gradients), &staging->variables);
}

}  // namespace fusedopt::python
