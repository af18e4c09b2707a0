// Slots in files: what the core knows of codes that are not its own state.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>

#include "engine/slot_memory.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "rules.hpp"
#include "rules/rule.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt::python {
namespace {

/// The slots of a rule that may be below zero.
std::set<std::string> signed_slots(const PyRule& rule) {
    std::set<std::string> names;
    for (const RuleSpec& branch : definition_of(rule.rule).branches(rule.rule)) {
        for (const Slot& slot : branch.slots) {
            if (slot.is_signed) names.insert(slot.name);
        }
    }
    return names;
}

using Codes = py::array_t<std::uint8_t, py::array::c_style>;
using Scales = py::array_t<std::uint16_t, py::array::c_style>;

/// The numbers that codes of 8 bits stand for. `name` is that of the scales.
py::array_t<float> decoded_float8(Codes codes, const Scales& scales, bool is_signed, const std::string& name) {
    const py::ssize_t size = codes.size();
    check_scales(name, Tensor(scales.data(), DType::uint16, std::array{static_cast<std::int64_t>(scales.size())}));
    if (size != scales.size() * kernel::slot_block) {
        throw std::invalid_argument("codes: expected " + std::to_string(kernel::slot_block) + " for each of " +
                                    std::to_string(scales.size()) + " scales, found " + std::to_string(size));
    }
    py::array_t<float> values(size);
    if (size == 0) return values;
    // The kernel finds the scales by their distance from the codes.
    kernel::Job job{};
    job.size = size;
    job.slot_code = kernel::SlotCode::float8;
    job.slots[0] = codes.mutable_data();
    job.scales = reinterpret_cast<const char*>(scales.data()) - reinterpret_cast<const char*>(codes.data());
    float* const first = values.mutable_data();
    const Unlocked unlocked;
    const FloatEnvironment environment;
    current_kernels().decode_slot(job, 0, is_signed, 0, size, first);
    return values;
}

}  // namespace

void register_slots(py::module_& module) {
    module.def("signed_slots", &signed_slots, py::arg("rule"));
    module.def("decoded_float8", &decoded_float8, py::arg("codes"), py::arg("scales"), py::arg("is_signed"),
               py::arg("name"));
}

}  // namespace fusedopt::python
