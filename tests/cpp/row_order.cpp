// The order of rows is that of a stable sort, for any number of threads, rows and indices, and indices that lie anyhow.
#include "engine/row_order.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "check.hpp"

namespace {

using fusedopt::DType;
using fusedopt::RowKey;
using fusedopt::RowKeyForm;
using fusedopt::Tensor;
using Rows = std::vector<std::int64_t>;

// From so many keys on, there are two threads.
constexpr std::int64_t of_two_threads = 65536;

void with_threads(int most, const auto& body) {
    for (int threads = 1; threads <= (fusedopt::has_threads() ? most : 1); ++threads) {
        fusedopt::set_num_threads(threads);
        body(std::to_string(threads) + " threads");
    }
    fusedopt::set_num_threads(1);
}

/// As many row numbers below `rows`, by a name for messages.
std::vector<std::pair<std::string, Rows>> orders(std::int64_t rows, std::int64_t count) {
    std::mt19937_64 random(7);
    Rows any, distinct, ascending, one(static_cast<std::size_t>(count), rows - 1);
    for (std::int64_t i = 0; i < count; ++i) {
        any.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows)));
        distinct.push_back(i * (rows / std::max<std::int64_t>(count, 1)));  // if there are enough rows
    }
    ascending = any;
    std::sort(ascending.begin(), ascending.end());
    Rows descending(ascending.rbegin(), ascending.rend()), last_first = ascending;
    if (count > 0) std::rotate(last_first.begin(), last_first.end() - 1, last_first.end());
    std::shuffle(distinct.begin(), distinct.end(), random);
    return {{"any", any},
            {"distinct", distinct},
            {"ascending", ascending},
            {"descending", descending},
            {"last first", last_first},
            {"one row", one}};
}

/// The keys that a stable sort gives.
std::vector<RowKey> expected_keys(const Rows& rows, RowKeyForm form) {
    std::vector<std::size_t> places(rows.size());
    std::iota(places.begin(), places.end(), 0u);
    std::stable_sort(places.begin(), places.end(), [&](std::size_t a, std::size_t b) { return rows[a] < rows[b]; });
    std::vector<RowKey> keys;
    for (const std::size_t place : places) keys.push_back(static_cast<RowKey>(rows[place]) << form.shift | place);
    return keys;
}

/// Sorts in memory of exactly as many keys.
std::vector<RowKey> sorted_keys(fusedopt::RowSorter& sorter, const Tensor& indices, std::int64_t rows) {
    const std::int64_t count = indices.size();
    std::vector<RowKey> keys(static_cast<std::size_t>(count)), other(keys.size());
    CHECK(copy_indices(indices, rows, keys.data()));
    const RowKey* const sorted = sorter.sort(keys.data(), other.data(), count, RowKeyForm::of(count, rows));
    return {sorted, sorted + count};
}

void check_orders(std::int64_t rows, std::int64_t count, int most_threads) {
    const RowKeyForm form = RowKeyForm::of(count, rows);
    CHECK(form.fits());
    for (const auto& order : orders(rows, count)) {
        const auto& name = order.first;  // Clang 14 lets no lambda take a structured binding
        const auto& given = order.second;
        const std::vector<RowKey> expected = expected_keys(given, form);
        Rows ascending = given;
        std::sort(ascending.begin(), ascending.end());
        const bool has_equal = std::adjacent_find(ascending.begin(), ascending.end()) != ascending.end();
        with_threads(most_threads, [&](const std::string& threads) {
            fusedopt::RowSorter sorter;
            const bool is_right = sorted_keys(sorter, Tensor(given), rows) == expected;
            const std::string where =
                name + ", " + std::to_string(count) + " of " + std::to_string(rows) + " rows, " + threads;
            CHECK_EQUAL(is_right ? "" : where, "");
            CHECK_EQUAL(fusedopt::has_equal(expected.data(), count, form) == has_equal ? "" : where, "");
        });
    }
}

}  // namespace

TEST(any_number_of_rows_and_indices) {
    for (const std::int64_t count : {0, 1, 2, 63, 64, 65, 500}) {
        // One digit takes 11 bits. With 3 digits, one of a pair is left over.
        for (const int bits : {0, 1, 5, 11, 12, 22, 23, 33, 34, 50}) {
            const std::int64_t rows = std::int64_t{1} << bits;
            check_orders(rows, count, 1);
            check_orders(rows + 1, count, 1);
        }
    }
}

TEST(any_number_of_threads) {
    for (const std::int64_t count : {of_two_threads - 1, of_two_threads, 2 * of_two_threads + 3}) {
        for (const std::int64_t rows : {std::int64_t{1000}, 5 * of_two_threads, std::int64_t{1} << 23}) {
            check_orders(rows, count, 8);
        }
    }
}

// Two equal rows where the parts of two threads meet, or anywhere else.
TEST(one_row_that_occurs_twice_is_found) {
    const std::int64_t count = of_two_threads;
    const RowKeyForm form = RowKeyForm::of(count, count);
    std::vector<RowKey> keys;
    for (std::int64_t i = 0; i < count; ++i) keys.push_back(static_cast<RowKey>(i) << form.shift);
    with_threads(3, [&](const std::string&) {
        CHECK(!has_equal(keys.data(), count, form));
        for (std::int64_t k = 1; k < count; k = k * 2 < count ? k * 2 : k + (count - k + 1) / 2) {
            const RowKey was = std::exchange(keys[static_cast<std::size_t>(k)], keys[static_cast<std::size_t>(k - 1)]);
            CHECK(has_equal(keys.data(), count, form));
            keys[static_cast<std::size_t>(k)] = was;
        }
    });
}

// Less memory is needed for fewer keys, though one thread sorts them in another way.
TEST(one_sorter_serves_all_sizes) {
    fusedopt::RowSorter sorter;
    with_threads(3, [&](const std::string&) {
        for (const std::int64_t count : {std::int64_t{70}, of_two_threads, std::int64_t{90}, std::int64_t{3}}) {
            for (const std::int64_t rows : {std::int64_t{1} << 23, std::int64_t{90}}) {
                for (const auto& [name, given] : orders(rows, count)) {
                    CHECK(sorted_keys(sorter, Tensor(given), rows) ==
                          expected_keys(given, RowKeyForm::of(count, rows)));
                }
            }
        }
    });
}

namespace {

/// The same indices every `apart` numbers, from the last to the first if that is negative.
template <class Index>
void check_layout(DType dtype, const Rows& rows, std::int64_t apart) {
    const auto count = static_cast<std::int64_t>(rows.size());
    std::vector<Index> spread(rows.size() * static_cast<std::size_t>(std::abs(apart)), Index{-1});
    const std::int64_t first = apart < 0 ? -apart * (count - 1) : 0;
    for (std::int64_t i = 0; i < count; ++i) {
        spread[static_cast<std::size_t>(first + i * apart)] = static_cast<Index>(rows[static_cast<std::size_t>(i)]);
    }
    const std::array<std::int64_t, 1> shape{count}, strides{apart * static_cast<std::int64_t>(sizeof(Index))};
    const Tensor view(static_cast<const void*>(spread.data() + first), dtype, shape, strides);
    std::vector<RowKey> copied(rows.size());
    CHECK(copy_indices(view, *std::max_element(rows.begin(), rows.end()) + 1, copied.data()));
    CHECK(std::equal(copied.begin(), copied.end(), rows.begin(),
                     [](RowKey key, std::int64_t row) { return key == static_cast<RowKey>(row); }));
}

}  // namespace

TEST(indices_in_any_layout) {
    for (const std::int64_t count : {std::int64_t{5}, of_two_threads + 1}) {
        const Rows rows = orders(1 << 20, count).front().second;
        with_threads(3, [&](const std::string&) {
            for (const std::int64_t apart : {1, 3, -1, -2}) {
                check_layout<std::int32_t>(DType::int32, rows, apart);
                check_layout<std::int64_t>(DType::int64, rows, apart);
            }
        });
    }
}

// Wherever it stands, and as it was found.
TEST(an_index_that_is_no_row_is_found) {
    const std::int64_t count = of_two_threads, rows = 1000;
    Rows given(static_cast<std::size_t>(count), rows - 1);
    std::vector<RowKey> copied(given.size());
    with_threads(3, [&](const std::string&) {
        CHECK(copy_indices(Tensor(given), rows, copied.data()));
        for (const std::int64_t wrong : {rows, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
            for (const std::size_t place : {std::size_t{0}, given.size() / 2, given.size() - 1}) {
                given[place] = wrong;
                CHECK(!copy_indices(Tensor(given), rows, copied.data()));
                CHECK(copied[place] == static_cast<RowKey>(wrong));
                given[place] = rows - 1;
            }
        }
    });
    const Rows none, first = {0};
    CHECK(copy_indices(Tensor(none), 0, copied.data()));
    CHECK(!copy_indices(Tensor(first), 0, copied.data()));
}

TEST(keys_that_do_not_fit) {
    CHECK(RowKeyForm::of(std::int64_t{1} << 31, std::int64_t{1} << 32).fits());
    CHECK(!RowKeyForm::of((std::int64_t{1} << 31) + 1, std::int64_t{1} << 32).fits());
}
