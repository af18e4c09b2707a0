#include "sharding.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "arrays.hpp"
#include "gil.hpp"

namespace fusedopt::python {
namespace {

py::array bytes_over(std::span<const std::byte> memory, bool is_written) {
    const std::array size{static_cast<std::int64_t>(memory.size())};
    static const std::byte no_byte{};
    const Tensor tensor(memory.empty() ? &no_byte : memory.data(), DType::uint8, size);
    py::array array = live_view(tensor, py::none());
    if (!is_written) array.attr("flags").attr("writeable") = false;
    return array;
}

/// What an exchange returns: None if it is over, or an object that waits for it.
Communicator::Wait wait_of(const py::object& exchange) {
    if (exchange.is_none()) return {};
    if (!py::hasattr(exchange, "wait")) {
        throw py::type_error("communicator: expected None or an object with wait() from an exchange, found " +
                             py::repr(exchange).cast<std::string>());
    }
    return [function = share(exchange.attr("wait"))] {
        const Locked locked;
        call(*function);
    };
}

py::list list_of(Communicator::Counts counts) {
    py::list list;
    for (const std::int64_t count : counts) list.append(count);
    return list;
}

}  // namespace

Communicator communicator(const py::object& object) {
    Communicator made;
    made.rank = object.attr("rank").cast<int>();
    made.size = object.attr("size").cast<int>();
    made.alltoallv = [function = share(object.attr("alltoallv"))](
                         std::span<const std::byte> send, Communicator::Counts send_counts,
                         std::span<std::byte> receive, Communicator::Counts receive_counts) {
        const Locked locked;
        return wait_of(call(*function, bytes_over(send, false), list_of(send_counts), bytes_over(receive, true),
                            list_of(receive_counts)));
    };
    made.allgatherv = [function = share(object.attr("allgatherv"))](
                          std::span<const std::byte> send, std::span<std::byte> receive, Communicator::Counts counts) {
        const Locked locked;
        return wait_of(call(*function, bytes_over(send, false), bytes_over(receive, true), list_of(counts)));
    };
    return made;
}

}  // namespace fusedopt::python
