#include "exchange.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "gil.hpp"
#include "interned.hpp"

namespace fusedopt::python {
namespace {

constexpr std::uint8_t integer_code = 0;  // kDLInt
constexpr std::uint8_t float_code = 2;    // kDLFloat
constexpr std::uint8_t bfloat_code = 4;   // kDLBfloat
constexpr std::uint32_t known_major = 1;  // of the table

// What the capsule holds: DLPackExchangeAPI.
struct Table {
    std::uint32_t major;
    std::uint32_t minor;
    const Table* previous;
    void (*allocate)();
    void (*give)();
    void (*take)();
    int (*describe)(void* object, Described* described);
    void (*stream)();
};

struct Attributes {
    py::str exchange;
    py::str is_neg;
    py::str mask;
};

const Attributes& attributes() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Attributes> storage;
    const auto make = [] {
        return Attributes{interned("__dlpack_c_exchange_api__"), interned("is_neg"), interned("mask")};
    };
    return storage.call_once_and_store_result(make).get_stored();
}

std::optional<DType> index_dtype_of(const Described& described) {
    if (described.type_code != integer_code) return std::nullopt;
    if (described.type_bits == 32) return DType::int32;
    return described.type_bits == 64 ? std::optional(DType::int64) : std::nullopt;
}

std::optional<DType> dtype_of(const Described& described, Elements elements) {
    if (described.type_lanes != 1) return std::nullopt;
    if (elements == Elements::indices) return index_dtype_of(described);
    if (described.type_code == bfloat_code && described.type_bits == 16) return DType::bfloat16;
    if (described.type_code != float_code) return std::nullopt;
    switch (described.type_bits) {
        case 16:
            return DType::float16;
        case 32:
            return DType::float32;
        case 64:
            return DType::float64;
        default:
            return std::nullopt;
    }
}

// A subclass whose tensors are read as those of the class that it is derived from: it only says what they are for.
bool is_known_subclass(py::handle type) {
    const auto is = [&](const char* attribute, const char* text) {
        const py::object found = py::getattr(type, attribute, py::none());
        return py::isinstance<py::str>(found) && found.cast<std::string>() == text;
    };
    return is("__qualname__", "Parameter") && is("__module__", "torch.nn.parameter");
}

// Empty tensors may have no address.
alignas(std::max_align_t) std::byte nothing[1];

bool has_layout_of(const Tensor& tensor, const Exchange::Memory& memory) {
    const std::size_t rank = memory.shape.size();
    if (!tensor || tensor.dtype() != memory.dtype || tensor.rank() != rank) return false;
    const auto item = static_cast<std::int64_t>(item_size(memory.dtype));
    const std::int64_t *shape = tensor.shape().data(), *strides = tensor.strides().data();
    for (std::size_t d = 0; d < rank; ++d) {
        if (shape[d] != memory.shape[d] || strides[d] != memory.strides[d] * item) return false;
    }
    return true;
}

}  // namespace

const Words& words_of(Elements elements) {
    static constexpr Words numbers{"float16, bfloat16, float32 or float64", "floating numbers", "float32"};
    static constexpr Words indices{"int32 or int64", "integers", "int64"};
    return elements == Elements::indices ? indices : numbers;
}

// kDLCPU, and what lies in the processor's memory for the sake of a card: kDLCUDAHost, kDLROCMHost.
bool is_in_memory(std::int32_t device_type) {
    return device_type == 1 || device_type == 3 || device_type == 11;
}

Exchange::Reader Exchange::reader_for(PyTypeObject* type) {
    Reader reader;
    reader.type = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type));
    // An attribute of this name says that elements are left out, and only the object's own array can tell which.
    if ((reader.type.attr("__dict__").contains(attributes().exchange) || is_known_subclass(reader.type)) &&
        !py::hasattr(reader.type, attributes().mask)) {
        const py::object capsule = py::getattr(reader.type, attributes().exchange, py::none());
        const Table* table = nullptr;
        if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
            table = static_cast<const Table*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        }
        while (table && table->major != known_major) table = table->previous;
        if (table) reader.describe = table->describe;
    }
    reader.is_neg = py::getattr(reader.type, attributes().is_neg, py::object());
    return reader;
}

// Another thread may use this object whenever Python code runs. So a reader is only good for what is read from it at
// once.
const Exchange::Reader& Exchange::reader_of(py::handle tensor) {
    PyTypeObject* const type = Py_TYPE(tensor.ptr());
    if (reinterpret_cast<PyObject*>(type) != reader_.type.ptr()) {
        Reader reader = reader_for(type);
        std::swap(reader, reader_);
    }
    return reader_;
}

std::optional<Exchange::Memory> Exchange::memory(py::handle tensor, Elements elements) {
    const auto describe = reader_of(tensor).describe;
    if (!describe) return std::nullopt;
    Described found{};
    if (outlasting([&] { return describe(tensor.ptr(), &found); }) != 0) {
        PyErr_Clear();
        return std::nullopt;
    }
    return memory_of(found, elements);
}

std::optional<Exchange::Memory> memory_of(const Described& found, Elements elements) {
    const std::optional<DType> dtype = dtype_of(found, elements);
    if (!dtype || !is_in_memory(found.device_type) || found.rank < 0 ||
        found.rank > static_cast<std::int32_t>(most_dimensions) || (found.rank > 0 && !found.strides)) {
        return std::nullopt;
    }
    const std::span<const std::int64_t> shape(found.shape, static_cast<std::size_t>(found.rank));
    if (!found.data) {
        // Elements without an address are not in memory, and its array decides what that means.
        if (std::ranges::find(shape, 0) == shape.end()) return std::nullopt;
        return Exchange::Memory{nothing, *dtype, shape, found.strides};
    }
    return Exchange::Memory{static_cast<std::byte*>(found.data) + found.byte_offset, *dtype, shape, found.strides};
}

std::optional<Exchange::Memory> Exchange::values(py::handle tensor, Sign& sign, Elements elements) {
    std::optional<Memory> found = memory(tensor, elements);
    if (!found || sign.is_known(tensor, found->data)) return found;
    const py::object is_neg = reader_of(tensor).is_neg;
    if (!is_neg) return found;
    PyObject* const argument = tensor.ptr();
    const auto answer = py::reinterpret_steal<py::object>(
        outlasting([&] { return PyObject_Vectorcall(is_neg.ptr(), &argument, 1, nullptr); }));
    if (!answer) PyErr_Clear();
    if (answer.ptr() != Py_False) return std::nullopt;
    sign.note(tensor, found->data);
    return found;
}

bool Sign::is_known(py::handle tensor, const void* data) const {
    return tensor.ptr() == tensor_ && data == data_ && reference_ && is_alive();
}

bool Sign::is_alive() const {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* found = nullptr;
    const bool is_there = PyWeakref_GetRef(reference_.ptr(), &found) == 1;
    Py_XDECREF(found);
    return is_there;
#else
    return PyWeakref_GetObject(reference_.ptr()) == tensor_;
#endif
}

// A tensor that is given once would be noted in vain, so only the second time is noted.
void Sign::note(py::handle tensor, const void* data) {
    if (reference_) {
        is_in_vain_ = !is_alive();
        reference_ = py::object();
    } else if (tensor.ptr() == tensor_ && !is_in_vain_) {
        reference_ = py::reinterpret_steal<py::object>(PyWeakref_NewRef(tensor.ptr(), nullptr));
        if (!reference_) PyErr_Clear();
    }
    tensor_ = tensor.ptr();
    data_ = data;
}

bool is_same(const Tensor& tensor, const Exchange::Memory& memory) {
    return tensor.data() == memory.data && has_layout_of(tensor, memory);
}

void renew(Tensor& tensor, const Exchange::Memory& memory) {
    if (has_layout_of(tensor, memory)) {
        tensor.move_to(memory.data);
        return;
    }
    const std::size_t rank = memory.shape.size();
    const auto item = static_cast<std::int64_t>(item_size(memory.dtype));
    std::array<std::int64_t, most_dimensions> strides;
    for (std::size_t d = 0; d < rank; ++d) strides[d] = memory.strides[d] * item;
    tensor = Tensor(memory.data, memory.dtype, memory.shape, std::span<const std::int64_t>(strides.data(), rank));
}

}  // namespace fusedopt::python
