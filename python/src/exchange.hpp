// Tensors of other libraries, read by the C functions that DLPack 1.3 lets a library offer with its type. To ask a
// tensor for an array takes some ten times as long. Only objects of that very type are read so, because the elements of
// a subclass may mean something else, which only its own conversion knows. PyTorch's Parameter is known to be read as
// its base.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include <fusedopt/tensor.hpp>

namespace fusedopt::python {

namespace py = pybind11;

/// Where elements lie, as DLPack describes it: the layout of its DLTensor, from https://dmlc.github.io/dlpack.
struct Described {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t rank;
    std::uint8_t type_code;
    std::uint8_t type_bits;
    std::uint16_t type_lanes;
    const std::int64_t* shape;
    const std::int64_t* strides;  // in elements
    std::uint64_t byte_offset;
};

/// What the elements of an array are for, which decides what types they may have, and what to do about others.
enum class Elements : std::uint8_t { numbers, indices, variable };

/// What messages say of them.
struct Words {
    const char* types;  // that they may have
    const char* kind;
    const char* dtype;  // that others can be converted to
};
const Words& words_of(Elements elements);

/// Whether a tensor is known not to stand for what lies in its memory with the other sign. PyTorch says so in a call
/// that takes longer than all else and lets other threads run, so a tensor that is given again is not asked again.
class Sign {
public:
    bool is_known(py::handle tensor, const void* data) const;
    void note(py::handle tensor, const void* data);

private:
    bool is_alive() const;

    PyObject* tensor_ = nullptr;  // may be gone, and another in its place,
    py::object reference_;        // but for as long as this weak reference lives
    const void* data_ = nullptr;
    bool is_in_vain_ = false;
};

/// Reads tensors whose type offers DLPack's functions; looks a type up once while the tensors have that type.
class Exchange {
public:
    struct Memory {
        void* data;
        DType dtype;
        std::span<const std::int64_t> shape;
        const std::int64_t* strides;  // in elements
    };

    /// Whether a tensor's type offers the functions.
    bool reads(py::handle tensor) { return reader_of(tensor).describe; }

    /// Where the elements of a tensor lie, or none if an array has to tell. It is valid until other code can run.
    std::optional<Memory> memory(py::handle tensor, Elements elements = Elements::numbers);

    /// The same, or none as well if the tensor's values are not simply what lies there.
    std::optional<Memory> values(py::handle tensor, Sign& sign, Elements elements = Elements::numbers);
    std::optional<Memory> values(py::handle tensor, Elements elements = Elements::numbers) {
        Sign sign;
        return values(tensor, sign, elements);
    }

private:
    struct Reader {
        py::object type;  // kept, so that no other can come to lie in its place
        int (*describe)(void* object, Described* described) = nullptr;
        py::object is_neg;  // if the type has it
    };

    static Reader reader_for(PyTypeObject* type);
    const Reader& reader_of(py::handle tensor);

    Reader reader_;
};

/// What is described, if the library can read it.
std::optional<Exchange::Memory> memory_of(const Described& described, Elements elements);

/// Whether a device of this number, as DLPack has them, is the processor's memory.
bool is_in_memory(std::int32_t device_type);

/// Makes `tensor`, left by an earlier call, a view of this memory.
void renew(Tensor& tensor, const Exchange::Memory& memory);

/// True if the memory is that of `tensor`, in its layout.
bool is_same(const Tensor& tensor, const Exchange::Memory& memory);

}  // namespace fusedopt::python
