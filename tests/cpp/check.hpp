// The test framework: TEST registers a function, CHECK and its kin count what fails, main runs all.
// Home-made, because the tests must build on a machine that has a compiler and nothing else.
#pragma once

#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace check {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test> tests;
inline int failures = 0;

struct Registration {
    Registration(const char* name, void (*run)()) { tests.push_back({name, run}); }
};

inline void fail(const char* file, int line, const std::string& what) {
    constexpr int most_printed = 20;
    if (++failures <= most_printed) std::cerr << file << ":" << line << ": " << what << std::endl;
}

template <class A, class B>
void equal(const char* file, int line, const char* expression, const A& found, const B& expected) {
    if (found == expected) return;
    std::ostringstream message;
    message.precision(17);
    message << expression << ": expected '" << expected << "', found '" << found << "'";
    fail(file, line, message.str());
}

/// Every refusal is a std::invalid_argument, and its message says what is wrong.
template <class Call>
void refuses(const char* file, int line, const char* expression, std::string_view part, const Call& call) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        if (std::string_view(error.what()).find(part) != std::string_view::npos) return;
        fail(file, line, std::string(expression) + ": expected '" + std::string(part) + "' in '" + error.what() + "'");
        return;
    } catch (const std::exception& error) {
        fail(file, line, std::string(expression) + ": expected std::invalid_argument, found '" + error.what() + "'");
        return;
    }
    fail(file, line, std::string(expression) + ": expected a refusal, found none");
}

}  // namespace check

#define TEST(name)                                                 \
    static void name();                                            \
    static const check::Registration register_##name(#name, name); \
    static void name()

#define CHECK(condition) ((condition) ? void() : check::fail(__FILE__, __LINE__, "expected " #condition))

#define CHECK_EQUAL(found, expected) check::equal(__FILE__, __LINE__, #found, found, expected)

/// The expression throws std::invalid_argument, and `part` is in the message.
#define CHECK_REFUSED(expression, part) \
    check::refuses(__FILE__, __LINE__, #expression, part, [&] { static_cast<void>(expression); })

int main() {
    for (const check::Test& test : check::tests) {
        const int before = check::failures;
        try {
            test.run();
        } catch (const std::exception& error) {
            check::fail(test.name, 0, std::string("unexpected exception: ") + error.what());
        }
        std::cout << (check::failures == before ? "passed  " : "FAILED  ") << test.name << std::endl;
    }
    return check::failures == 0 ? 0 : 1;
}
