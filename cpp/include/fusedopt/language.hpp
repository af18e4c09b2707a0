// What the public headers need of the compiler. Each of them includes this file first.
#pragma once

#if __cplusplus < 202002L && !(defined(_MSVC_LANG) && _MSVC_LANG >= 202002L)
#error "fusedopt: expected C++20 or newer, found an older standard; compile with -std=c++20 (cl: /std:c++20)"
#include <fusedopt/needs_cxx20>  // No such file: a compiler stops here, and no page of other errors follows.
#endif
