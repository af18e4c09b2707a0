#include "built.hpp"

#include <pybind11/critical_section.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <functional>

namespace fusedopt::python {
namespace {

[[noreturn]] void refuse_moved(const std::string& who) {
    throw std::invalid_argument(who +
                                ": expected the memory it was built with, found it moved; build a new optimizer on it");
}

[[noreturn]] void refuse_name(const std::string& who, const std::vector<std::string>& names, py::handle found) {
    std::string known;
    for (const std::string& name : names) {
        known += (known.empty() ? "" : ", ") + py::repr(py::str(name)).cast<std::string>();
    }
    throw std::invalid_argument(who + ": expected names given to build (" + known + "), found " +
                                py::repr(found).cast<std::string>());
}

}  // namespace

Built::Built(const Built& old, std::vector<py::object> objects, std::vector<std::string> names) {
    std::vector<py::array> arrays;
    for (std::size_t i = 0; i < objects.size(); ++i) {
        const std::string who = "variable " + std::to_string(i) + (names.empty() ? "" : " ('" + names[i] + "')");
        arrays.push_back(variable_array(objects[i], who));
        const Tensor tensor = view(arrays.back(), who, Elements::variable);
        const std::optional<std::size_t> index = old.find(tensor);
        if (!index) continue;
        const Tensor& known = old.tensors_[*index];
        if (known.dtype() == tensor.dtype() && std::ranges::equal(known.shape(), tensor.shape())) {
            objects[i] = old.objects_[*index];
            arrays[i] = old.arrays_[*index];
        }
    }
    if (names.empty() && !old.names_.empty()) {
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::optional<std::size_t> index = old.find(view(arrays[i], ""));
            names.push_back(index ? old.names_[*index] : std::to_string(i));
        }
    }
    keep(std::move(objects), std::move(arrays), std::move(names));
}

void Built::keep(std::vector<py::object> objects, std::vector<py::array> arrays, std::vector<std::string> names) {
    learned_ = py::list();
    objects_ = std::move(objects);
    names_ = std::move(names);
    const std::size_t count = objects_.size();
    arrays_.resize(count);
    tensors_.resize(count);
    memory_.resize(count);
    locks_.resize(count);
    signs_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
        keep_array(i, std::move(arrays[i]));
        const py::object dtype = py::getattr(objects_[i], "dtype", py::none());
        const Shared variable{i, objects_[i], arrays_[i].attr("shape"), dtype, nullptr};
        if (!py::isinstance<py::array>(variable.object)) shared_.push_back(variable);
        if (!py::isinstance<py::array>(variable.object) && !PyMemoryView_Check(variable.object.ptr())) continue;
        const py::object owner = owner_of(variable.object);
        if (const auto memory = of_variables_.memory(owner)) {
            views_.push_back({i, owner, variable.shape, variable.dtype, memory->data});
        }
    }
    places_.fill(names_);
}

void Built::keep_array(std::size_t index, py::array array) {
    const auto* fields = py::detail::array_proxy(array.ptr());
    tensors_[index] = view(array, describe(index), Elements::variable);
    memory_[index] = {fields->data, fields->dimensions, array.dtype()};
    locks_[index] = py::weakref(py::handle(array));
    arrays_[index] = std::move(array);
}

std::vector<Tensor> Built::tensors_with(const std::vector<Moved>& moved) const {
    std::vector<Tensor> tensors = tensors_;
    for (const Moved& variable : moved) tensors[variable.index] = variable.tensor;
    return tensors;
}

void Built::follow(const std::vector<Moved>& moved) {
    for (const Moved& variable : moved) keep_array(variable.index, variable.array);
}

void Built::check_array(std::size_t index, const py::array& array) const {
    const Tensor& built = tensors_[index];
    const auto refuse = [&](const std::string& what) { throw std::invalid_argument(describe(index) + ": " + what); };
    if (array.data() != built.data()) refuse_moved(describe(index));
    if (KnownDTypes().of(array) != built.dtype()) {
        refuse("expected dtype " + std::string(to_string(built.dtype())) + " as at build, found " +
               py::str(array.dtype()).cast<std::string>() + "; assign its dtype back, or build a new optimizer on it");
    }
    const std::span<const py::ssize_t> shape(array.shape(), static_cast<std::size_t>(array.ndim()));
    if (!std::ranges::equal(shape, built.shape())) {
        refuse("expected shape " + shape_text(built.shape()) + " as at build, found " +
               shape_text(std::vector<std::int64_t>(shape.begin(), shape.end())) +
               "; assign its shape back, or build a new optimizer on it");
    }
    if (!view(array, describe(index), Elements::variable).is_contiguous()) {
        refuse("expected C-contiguous memory as at build, found it strided; assign its strides back");
    }
    if (!array.writeable()) {
        refuse("expected writable memory, found it made read-only after build; set its flags.writeable to True");
    }
}

void Built::check_places() const {
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
        if (py::detail::array_proxy(arrays_[i].ptr())->data != memory_[i].data) refuse_moved(describe(i));
    }
    for (const Shared& view : views_) check_view(view);
}

// An array cannot see that what it is a view of has other memory now, and that its own may be gone.
void Built::check_view(const Shared& view) const {
    const py::scoped_critical_section alone(learned_);
    const std::optional<Exchange::Memory> memory = of_variables_.memory(view.object);
    if (memory && memory->data == view.data) return;
    const auto type = py::type::handle_of(view.object).attr("__name__").cast<std::string>();
    throw std::invalid_argument(describe(view.index) + ": expected the memory it was built with, found that of the " +
                                type + " under it moved; build a new optimizer, on the " + type + " itself");
}

void Built::look_at(const Shared& variable, std::vector<Moved>& found) const {
    const std::size_t i = variable.index;
    if (!of_variables_.reads(variable.object) &&
        is_known_at(variable.object, memory_[i].data, variable.shape, variable.dtype)) {
        return;
    }
    py::array array = value_array(variable.object, describe(i));
    if (array.data() == tensors_[i].data()) {
        check_array(i, array);
        return;
    }
    array = variable_array(variable.object, describe(i));
    found.push_back({i, array, view(array, describe(i), Elements::variable)});
}

std::optional<std::size_t> Built::find(const Tensor& tensor) const {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].data() == tensor.data() && tensors_[i].size_bytes() == tensor.size_bytes()) return i;
    }
    return std::nullopt;
}

void NameTable::fill(const std::vector<std::string>& names) {
    names_.assign(names.begin(), names.end());
    hashes_.clear();
    slots_.assign(std::bit_ceil(2 * names.size() + 1), {0, empty});
    for (std::size_t place = 0; place < names_.size(); ++place) {
        const Py_hash_t hash = hashes_.emplace_back(PyObject_Hash(names_[place].ptr()));
        std::size_t at = static_cast<std::size_t>(hash) & (slots_.size() - 1);
        while (slots_[at].place != empty) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = {hash, place};
    }
}

std::optional<std::size_t> NameTable::find(PyObject* name, std::span<const py::object> known) const {
    py::object plain;
    PyObject* text = name;
    if (!PyUnicode_CheckExact(name)) {
        if (!PyUnicode_Check(name)) return std::nullopt;
        plain = py::reinterpret_steal<py::object>(PyUnicode_FromObject(name));  // a subclass could run code of its own
        text = plain.ptr();
    }
    const Py_hash_t hash = hash_of(text);
    for (std::size_t at = static_cast<std::size_t>(hash);; ++at) {
        const Slot& slot = slots_[at & (slots_.size() - 1)];
        if (slot.place == empty) return std::nullopt;
        if (known[slot.place].ptr() == name || (slot.hash == hash && is_same(text, names_[slot.place].ptr()))) {
            return slot.place;
        }
    }
}

std::unique_ptr<Names> Built::take_names() const {
    std::unique_ptr<Names> names(idle_names_.exchange(nullptr));
    return names ? std::move(names) : std::make_unique<Names>();
}

void Built::give_back(std::unique_ptr<Names> names) const {
    const std::unique_ptr<Names> other(idle_names_.exchange(names.release()));
}

py::tuple Built::by_name(const py::dict& gradients, Names& names) const {
    if (builds_ == 0) throw std::invalid_argument("apply: the optimizer is not built; call build first");
    if (names_.empty()) {
        throw std::invalid_argument(
            "grads: expected a sequence, as build was given one, found a dict; give build a dict of variables by "
            "name, too");
    }
    py::tuple held;
    py::object unknown;
    names.known.resize(names_.size());
    {
        const py::scoped_critical_section alone(gradients);
        std::size_t count;
        do {  // to make a tuple can run the garbage collector, and that the caller's code
            count = gradients.size();
            held = py::tuple(count);
        } while (gradients.size() != count);
        names.are_some = count < names_.size();
        names.indices.resize(count);
        Py_ssize_t cursor = 0;
        PyObject *name, *gradient;
        for (std::size_t position = 0; PyDict_Next(gradients.ptr(), &cursor, &name, &gradient); ++position) {
            std::size_t& index = names.indices[position];
            if (index >= names_.size() || (names.known[index].ptr() != name && !places_.is_at(index, name))) {
                const std::optional<std::size_t> found = places_.find(name, names.known);
                if (!found) {
                    unknown = py::reinterpret_borrow<py::object>(name);
                    break;
                }
                index = *found;
                py::object& known = names.known[index];
                if (!known) known = py::reinterpret_borrow<py::object>(name);
            }
            const auto place = static_cast<py::ssize_t>(names.are_some ? position : index);
            if (PyTuple_GET_ITEM(held.ptr(), place)) {
                unknown = py::reinterpret_borrow<py::object>(name);
                break;
            }
            PyTuple_SET_ITEM(held.ptr(), place, py::handle(gradient).inc_ref().ptr());
        }
    }
    if (unknown) refuse_name("grads", names_, unknown);
    return held;
}

void Built::read_indices(py::handle object, Tensor& tensor, std::vector<py::object>& held,
                         const std::function<std::string()>& who) const {
    const bool is_plain = is_plain_array(object);
    const auto memory = is_plain ? std::nullopt : of_gradients_.values(object, Elements::indices);
    if (memory) {
        renew(tensor, *memory);
        return;
    }
    py::object array;
    if (!is_plain) {
        array = index_array(object, who());
        held.push_back(array);
        object = array;
    }
    const std::optional<DType> dtype = index_dtype_of(object);
    if (!dtype) refuse_dtype(object, who(), Elements::indices);
    renew(tensor, object, *dtype);
}

std::size_t Built::place_of(const py::object& variable, const std::string& who) const {
    if (!py::isinstance<py::str>(variable)) {
        const std::string subject = who + ": variable";
        if (const auto place = find(view(variable_array(variable, subject), subject, Elements::variable)))
            return *place;
        throw std::invalid_argument(subject + ": expected one that was given to build, found another");
    }
    if (names_.empty()) {
        throw std::invalid_argument(who + ": variable: expected an array, as build was given no names, found " +
                                    py::repr(variable).cast<std::string>());
    }
    const auto name = std::ranges::find(names_, variable.cast<std::string>());
    if (name == names_.end()) refuse_name(who + ": variable", names_, variable);
    return static_cast<std::size_t>(name - names_.begin());
}

}  // namespace fusedopt::python
