// The version, and the compiler that built it.
#include <fusedopt/runtime.hpp>

namespace fusedopt {

std::string_view version() {
    return FUSEDOPT_VERSION;
}

std::string_view compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return "unknown";
#endif
}

}  // namespace fusedopt
