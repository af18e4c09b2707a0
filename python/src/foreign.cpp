#include "foreign.hpp"

#include <cstdint>
#include <vector>

#include "arrays.hpp"
#include "exchange.hpp"
#include "gil.hpp"

namespace fusedopt::python {
namespace {

// What a capsule "dltensor" holds: DLManagedTensor.
struct Managed {
    Described tensor;
    void* context;
    void (*release)(Managed*);
};

// What a capsule "dltensor_versioned" holds: DLManagedTensorVersioned.
struct VersionedManaged {
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*release)(VersionedManaged*);
    std::uint64_t flags;
    Described tensor;
};

constexpr std::uint64_t read_only_or_copied = 3;

std::string type_of(py::handle object) {
    return py::type::handle_of(object).attr("__name__").cast<std::string>();
}

// An attribute, or what a method of no arguments returns; None if there is none.
py::object answer(py::handle object, const char* name) {
    if (!py::hasattr(object, name)) return py::none();
    py::object found = object.attr(name);
    return PyCallable_Check(found.ptr()) ? call(found) : found;
}

bool is_true(py::handle object, const char* name) {
    return answer(object, name).ptr() == Py_True;
}

std::string text(py::handle object, const char* name) {
    return py::str(answer(object, name)).cast<std::string>();
}

py::object capsule_of(py::handle object) {
    const py::object method = object.attr("__dlpack__");
    try {
        return method(py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_TypeError)) throw;
        return method();  // from before there were versions
    }
}

}  // namespace

bool offers_dlpack(py::handle object) {
    return py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__") && !is_true(object, "is_neg");
}

py::array dlpack_array(py::handle object, const std::string& who, Elements elements) {
    const auto refuse = [&](const std::string& what) {
        throw py::type_error(who + ": expected " + words_of(elements).types + " in CPU memory, found " +
                             type_of(object) + " " + advice_for(elements, what));
    };
    const auto device = py::sequence(object.attr("__dlpack_device__")())[0].cast<std::int32_t>();
    if (!is_in_memory(device))
        refuse("on a device of DLPack's type " + std::to_string(device) + "; copy it to the CPU");
    const py::object capsule = capsule_of(object);
    const Described* tensor = nullptr;
    bool is_writable = false;
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
        const auto* managed = static_cast<VersionedManaged*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
        if (managed->major == 1) tensor = &managed->tensor;
        is_writable = (managed->flags & read_only_or_copied) == 0;
    } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
        tensor = &static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor;
    }
    if (!tensor) refuse("whose __dlpack__ gives something of another version; give a numpy.ndarray");
    std::vector<std::int64_t> strides;
    Described described = *tensor;
    if (described.rank > 0 && !described.strides) {  // it is C-contiguous
        strides.resize(static_cast<std::size_t>(described.rank), 1);
        for (std::size_t d = strides.size() - 1; d-- > 0;) strides[d] = strides[d + 1] * described.shape[d + 1];
        described.strides = strides.data();
    }
    const std::optional<Exchange::Memory> memory = memory_of(described, elements);
    if (!memory) refuse("of another element type, or without memory; give a numpy.ndarray");
    py::array array = array_over(*memory, capsule);
    if (!is_writable) array.attr("setflags")(py::arg("write") = false);
    return array;
}

std::string explained(py::handle object) {
    const std::string found = "a " + type_of(object) + " ";
    if (py::hasattr(object, "layout") && text(object, "layout") != "torch.strided") {
        return found + "of layout " + text(object, "layout") + "; give its .to_dense()";
    }
    if (is_true(object, "is_quantized")) return found + "that is quantized; give its .dequantize()";
    const std::string device = py::hasattr(object, "device") ? text(object, "device") : "cpu";
    if (device == "meta") return found + "on the device meta, where it has no values; give one that has some";
    if (device.starts_with("cuda") || device.starts_with("mps") || device.starts_with("xpu")) {
        return found + "on the device " + device + "; copy it to the CPU";
    }
    if (is_true(object, "is_complex")) {
        return found + "of dtype " + text(object, "dtype") + "; give its .real or .imag part";
    }
    if (is_true(object, "is_neg")) return found + "with its negative bit set; give its .resolve_neg()";
    if (text(object, "dtype").find("float8") != std::string::npos) {
        return found + "of dtype " + text(object, "dtype") + "; convert it to float32";
    }
    return "";
}

}  // namespace fusedopt::python
