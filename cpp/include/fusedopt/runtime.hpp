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

/// True if the library was built with threads (OpenMP).
bool has_threads();

/// The most threads a step of the calling thread uses. The results do not depend on it. Without set_num_threads,
/// FUSEDOPT_NUM_THREADS and OMP_NUM_THREADS it follows the processors that the thread may use. A limit that is set
/// through OpenMP while the program runs (omp_set_num_threads, or a parallel region around the step) holds in any case.
int num_threads();
void set_num_threads(int count);

/// Where `num_threads()` comes from: "set_num_threads", an environment variable's name, "processors", "control group
/// quota", "limit of OpenMP", "forked after a threaded step" or "built without threads".
std::string_view num_threads_source();

/// How many processors the calling thread may use: those of its affinity, or fewer if a control group has a quota.
int num_processors();

/// True if OMP_NUM_THREADS has a value that OpenMP does not allow. It then counts as unset.
bool ignores_omp_num_threads();

/// Levels compiled into the library, lowest first, and those this machine can run.
std::vector<std::string> compiled_levels();
std::vector<std::string> supported_levels();

/// The level in use: the highest supported one, or the one FUSEDOPT_ISA or set_level names. std::runtime_error if the
/// processor can run none.
std::string_view level();
void set_level(std::string_view name);

/// Reads FUSEDOPT_ISA and FUSEDOPT_NUM_THREADS; std::invalid_argument if a value is unknown. Building an optimizer does
/// so too, before anything else.
void read_environment();

}  // namespace fusedopt
