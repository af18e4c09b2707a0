// What fuzzers have found worth keeping (tests/fuzz): every input is run once more.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST(corpus_of_calls) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(FUSEDOPT_CORPUS "/calls")) {
        std::ifstream file(entry.path(), std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        CHECK_EQUAL(LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()), 0);
        ++count;
    }
    CHECK(count >= 20);
}
