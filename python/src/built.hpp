// The variables an optimizer was built on.
#pragma once

#include <fusedopt/tensor.hpp>

#include <pybind11/critical_section.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "conversion.hpp"
#include "exchange.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedopt::python {

/// What is known of calls by name. It is quicker to see an object again than to compare its text.
struct Names {
    std::vector<py::object> known;     // of each variable, the first object that had its name
    std::vector<std::size_t> indices;  // which variables the last call named, in its order
    bool are_some = false;             // not all of the variables
};

/// Finds the places of names by the hash that Python keeps with each string. A dict would have to make an object for
/// each place.
class NameTable {
public:
    void fill(const std::vector<std::string>& names);

    /// True if this object is a plain string with the text of the name at `place`.
    bool is_at(std::size_t place, PyObject* name) const {
        return PyUnicode_CheckExact(name) && place < names_.size() && hashes_[place] == hash_of(name) &&
               is_same(name, names_[place].ptr());
    }

    /// The place of this object among the names, if it is one of them. `known` are objects that have these names.
    std::optional<std::size_t> find(PyObject* name, std::span<const py::object> known) const;

private:
    struct Slot {
        Py_hash_t hash;
        std::size_t place;
    };
    static constexpr std::size_t empty = static_cast<std::size_t>(-1);

    // Both plain strings. Python's own comparison takes longer than that of two short ASCII texts.
    static bool is_same(PyObject* one, PyObject* other) {
        if (PyUnicode_IS_COMPACT_ASCII(one) && PyUnicode_IS_COMPACT_ASCII(other)) {
            const Py_ssize_t length = PyUnicode_GET_LENGTH(one);
            return length == PyUnicode_GET_LENGTH(other) &&
                   std::memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), static_cast<std::size_t>(length)) == 0;
        }
        PyObject* result = PyUnicode_RichCompare(one, other, Py_EQ);
        Py_XDECREF(result);
        return result == Py_True;
    }

    // Without a call if Python has computed it, as it has for every key of a dict.
    static Py_hash_t hash_of(PyObject* text) {
        const Py_hash_t hash = reinterpret_cast<PyASCIIObject*>(text)->hash;
        return hash == -1 ? PyObject_Hash(text) : hash;
    }

    std::vector<py::str> names_;
    std::vector<Py_hash_t> hashes_;
    std::vector<Slot> slots_;  // a power of two, at most half of them filled; a name lies in the first free one
};

/// The variables given to build: their arrays keep the memory alive.
class Built {
public:
    Built() = default;
    ~Built() { delete idle_names_.load(); }
    Built(const Built&) = delete;
    Built& operator=(const Built&) = delete;

    /// Takes these variables. Those that `old` has as well stay the objects that were given first.
    Built(const Built& old, std::vector<py::object> objects, std::vector<std::string> names);

    /// Keeps variables that are built: the objects that were given, the arrays over their memory, and their names.
    void keep(std::vector<py::object> objects, std::vector<py::array> arrays, std::vector<std::string> names);

    std::string describe(std::size_t index) const {
        return "variable " + std::to_string(index) + (index < names_.size() ? " ('" + names_[index] + "')" : "");
    }

    /// Refuses arrays that are no longer what they were at build. __setstate__ can swap an array's memory behind
    /// everybody's back. Its dtype and shape can be assigned, and it can be made read-only.
    void check_arrays() const {
        constexpr int needed = py::detail::npy_api::NPY_ARRAY_WRITEABLE_ | py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
        for (std::size_t i = 0; i < arrays_.size(); ++i) {
            const auto* fields = py::detail::array_proxy(arrays_[i].ptr());
            const Memory& memory = memory_[i];
            const bool is_same = fields->data == memory.data && fields->dimensions == memory.dimensions &&
                                 fields->descr == memory.descriptor.ptr() && (fields->flags & needed) == needed;
            if (!is_same) check_array(i, py::array(arrays_[i]));
        }
        for (const Shared& view : views_) check_view(view);
    }

    /// Refuses arrays that lie elsewhere than at build, whatever else has become of them.
    void check_places() const;

    /// A variable whose library has moved its memory, as it lies now.
    struct Moved {
        std::size_t index;
        py::array array;
        Tensor tensor;
    };

    /// Those of the variables that are no arrays.
    std::vector<Moved> moved() const {
        const py::scoped_critical_section alone(learned_);
        std::vector<Moved> found;
        for (const Shared& variable : shared_) {
            const std::optional<Exchange::Memory> memory = of_variables_.memory(variable.object);
            if (!memory || !is_same(tensors_[variable.index], *memory)) look_at(variable, found);
        }
        return found;
    }

    /// The variables, with the moved ones in their places.
    std::vector<Tensor> tensors_with(const std::vector<Moved>& moved) const;

    /// Where a gradient lies, if its type says so.
    std::optional<Exchange::Memory> gradient(std::size_t place, py::handle tensor) const {
        const py::scoped_critical_section alone(learned_);
        Sign unknown_sign;
        return of_gradients_.values(tensor, place < signs_.size() ? signs_[place] : unknown_sign);
    }

    /// Makes `tensor` a view of row indices. What it views lies in the object, or in an array that is added to `held`.
    /// TypeError, naming `who()`, if these are no indices.
    void read_indices(py::handle object, Tensor& tensor, std::vector<py::object>& held,
                      const std::function<std::string()>& who) const;

    /// The place of a variable that is given by its name or as an object; ValueError if it is not one of these.
    std::size_t place_of(const py::object& variable, const std::string& who) const;

    /// Takes these places for those of the build.
    void follow(const std::vector<Moved>& moved);

    /// Gradients by name, held: in the order of build if there is one for each variable, else in that of `names`.
    py::tuple by_name(const py::dict& gradients, Names& names) const;

    /// How many builds the core had seen after this one.
    void set_builds(std::int64_t builds) { builds_ = builds; }
    std::int64_t builds() const { return builds_; }

    /// What is known of names from earlier calls; nothing, if another thread is using it.
    std::unique_ptr<Names> take_names() const;
    void give_back(std::unique_ptr<Names> names) const;

    /// The variable that lies in this memory, if there is one.
    std::optional<std::size_t> find(const Tensor& tensor) const;

    const std::vector<Tensor>& tensors() const { return tensors_; }
    const std::vector<py::object>& objects() const { return objects_; }
    const std::vector<py::array>& arrays() const { return arrays_; }
    const std::vector<std::string>& names() const { return names_; }

private:
    // What NumPy would change of an array. It puts an assigned shape elsewhere, and to read the sizes in each step
    // would cost more than to see where they are.
    struct Memory {
        const void* data;
        const void* dimensions;
        py::object descriptor;  // kept, so that no other can come to lie in its place
    };

    // A variable that is no array, or what an array is a view of. The library it comes from can move its memory and
    // leave the array behind.
    struct Shared {
        std::size_t index;
        py::object object;
        py::tuple shape;
        py::object dtype;  // None if it does not say
        const void* data;
    };

    void check_array(std::size_t index, const py::array& array) const;
    void check_view(const Shared& view) const;
    void look_at(const Shared& variable, std::vector<Moved>& found) const;
    void keep_array(std::size_t index, py::array array);

    std::vector<py::object> objects_;
    std::vector<py::array> arrays_;
    std::vector<Tensor> tensors_;
    std::vector<std::string> names_;
    NameTable places_;
    std::int64_t builds_ = 0;
    mutable std::atomic<Names*> idle_names_{nullptr};
    std::vector<Memory> memory_;
    std::vector<Shared> shared_;
    std::vector<Shared> views_;
    py::object learned_;  // locked while what follows is used, as without a GIL other threads may use it, too
    mutable Exchange of_variables_, of_gradients_;
    mutable std::vector<Sign> signs_;  // of the gradients at each place of a call
    // NumPy does not resize an array that has weak references. To ask for its size in each step made steps on many
    // small arrays take up to half as long again, because NumPy keeps the size next to the elements of some arrays.
    std::vector<py::object> locks_;
};

/// What an optimizer is built on now. A call may still be using what it was built on before, so that is kept; it holds
/// only variables that are still there.
class Current {
public:
    Current() : now_(&all_.emplace_back()) {}

    Built& operator*() const { return *now_.load(std::memory_order_acquire); }
    Built* operator->() const { return &**this; }

    /// Makes room, so that `set` cannot fail.
    std::list<Built> make(std::vector<py::object> objects, std::vector<std::string> names) const {
        std::list<Built> made;
        made.emplace_back(**this, std::move(objects), std::move(names));
        return made;
    }

    /// `builds` is how many the core has seen.
    void set(std::list<Built>&& made, std::int64_t builds) noexcept {
        made.back().set_builds(builds);
        all_.splice(all_.end(), std::move(made));
        now_.store(&all_.back(), std::memory_order_release);
    }

private:
    std::list<Built> all_;
    std::atomic<Built*> now_;
};

class BorrowedNames {
public:
    BorrowedNames(const Built& built, bool are_given)
        : built_(built), names_(are_given ? built.take_names() : nullptr) {}
    ~BorrowedNames() {
        if (names_) built_.give_back(std::move(names_));
    }
    BorrowedNames(const BorrowedNames&) = delete;
    BorrowedNames& operator=(const BorrowedNames&) = delete;
    Names* get() const { return names_.get(); }

private:
    const Built& built_;
    std::unique_ptr<Names> names_;
};

/// Lets `core` and what was built follow memory that has moved.
template <class Core>
void follow(Core& core, Built& built) {
    const std::vector<Built::Moved> moved = built.moved();
    if (moved.empty()) return;
    const std::vector<Tensor> tensors = built.tensors_with(moved);
    {
        const Unlocked unlocked;
        core.rebind(tensors, built.builds());
    }
    built.follow(moved);
}

}  // namespace fusedopt::python
