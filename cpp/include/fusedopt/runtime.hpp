// What runs the kernels: threads and instruction-set levels.
#pragma once

#include <fusedopt/language.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace fusedopt {

std::string_view version();

/// The compiler the library was built with.
std::string_view compiler();

/// True where the library was built with threads (OpenMP).
bool has_threads();

/// The most threads a step uses. The results do not depend on it.
int num_threads();
void set_num_threads(int count);

/// Where `num_threads()` comes from: "set_num_threads", an environment variable's name, or "processors".
std::string_view num_threads_source();

/// Levels compiled into the library, lowest first, and those this machine can run.
std::vector<std::string> compiled_levels();
std::vector<std::string> supported_levels();

/// The level in use: the highest supported one, or the one FUSEDOPT_ISA or set_level names.
std::string_view level();
void set_level(std::string_view name);

/// Reads FUSEDOPT_ISA and FUSEDOPT_NUM_THREADS now; std::invalid_argument where a value is unknown. Without this call
/// they are read at the first use.
void read_environment();

}  // namespace fusedopt
