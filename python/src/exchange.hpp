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

/// Reads tensors whose type offers DLPack's functions; looks a type up once while the tensors have that type.
class Exchange {
public:
    struct Memory {
        void* data;
        DType dtype;
        std::span<const std::int64_t> shape;
        const std::int64_t* strides;  // in elements
    };

    /// Where the elements of a tensor lie, or none if an array has to tell. It is valid until other code can run.
    std::optional<Memory> memory(py::handle tensor);

    /// The same, or none as well if the tensor's values are not simply what lies there.
    std::optional<Memory> values(py::handle tensor);

private:
    void look_up(PyTypeObject* type);

    py::object type_;  // kept, so that no other can come to lie in its place
    int (*describe_)(void* object, Described* described) = nullptr;
    py::object
        is_neg_;  // whether a tensor stands for what lies there with the other sign, if its type has such tensors
};

/// Makes `tensor`, left by an earlier call, a view of this memory.
void renew(Tensor& tensor, const Exchange::Memory& memory);

/// True if the memory is that of `tensor`, in its layout.
bool is_same(const Tensor& tensor, const Exchange::Memory& memory);

}  // namespace fusedopt::python
