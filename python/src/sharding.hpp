// A communicator of the caller's, as the core's.
#pragma once

#include <fusedopt/sharding.hpp>

#include <pybind11/pybind11.h>

namespace fusedopt::python {

/// Of an object with `rank`, `size`, `alltoallv(send, send_counts, receive, receive_counts)` and
/// `allgatherv(send, receive, counts)`. Buffers are arrays of uint8, counts lists of bytes.
Communicator communicator(const pybind11::object& object);

}  // namespace fusedopt::python
