// Ranks that are threads: the bits of one optimizer with the summed gradients, and refusals on all ranks.
#include <array>
#include <barrier>
#include <bit>
#include <cstring>
#include <memory>
#include <span>
#include <thread>

#include "array.hpp"
#include "check.hpp"
#include "matrices.hpp"
#include "memory.hpp"
#include "own_rules.hpp"

namespace {

using fusedopt::Communicator;
using Bytes = std::span<const std::byte>;

/// What the ranks of a group share.
struct Group {
    explicit Group(int size_)
        : size(size_), sent(static_cast<std::size_t>(size_)), counts(sent.size()), barrier(size_) {}

    Communicator rank(int number) {
        const auto own = static_cast<std::size_t>(number);
        Communicator made;
        made.rank = number;
        made.size = size;
        made.alltoallv = [this, own](Bytes send, Communicator::Counts send_counts, std::span<std::byte> receive,
                                     Communicator::Counts receive_counts) {
            sent[own] = send;
            counts[own] = send_counts;
            barrier.arrive_and_wait();
            std::size_t at = 0;
            for (std::size_t k = 0; k < sent.size(); ++k) {
                std::size_t begin = 0;
                for (std::size_t j = 0; j < own; ++j) begin += static_cast<std::size_t>(counts[k][j]);
                const auto bytes = static_cast<std::size_t>(receive_counts[k]);
                if (bytes > 0) std::memcpy(receive.data() + at, sent[k].data() + begin, bytes);
                at += bytes;
            }
            barrier.arrive_and_wait();
            return Communicator::Wait();
        };
        made.allgatherv = [this, own](Bytes send, std::span<std::byte> receive, Communicator::Counts receive_counts) {
            sent[own] = send;
            barrier.arrive_and_wait();
            std::size_t at = 0;
            for (std::size_t k = 0; k < sent.size(); ++k) {
                const auto bytes = static_cast<std::size_t>(receive_counts[k]);
                if (bytes > 0) std::memcpy(receive.data() + at, sent[k].data(), bytes);
                at += bytes;
            }
            barrier.arrive_and_wait();
            return Communicator::Wait();
        };
        return made;
    }

    int size;
    std::vector<Bytes> sent;
    std::vector<Communicator::Counts> counts;
    std::barrier<> barrier;
};

template <class Work>
void on_ranks(int size, const Work& work) {
    Group group(size);
    std::vector<std::thread> threads;
    for (int k = 0; k < size; ++k) threads.emplace_back([&, k] { work(k, group.rank(k)); });
    for (std::thread& thread : threads) thread.join();
}

constexpr std::int64_t large = 5000, small = 7;
constexpr int steps = 3;
const Shape matrix{40, 30};
constexpr std::int64_t matrix_size = 1200;

std::vector<Array> variables() {
    std::vector<Array> made;
    made.emplace_back(DType::float32, numbers(DType::float32, large, 1));
    made.emplace_back(DType::float64, numbers(DType::float64, small, 2));
    made.emplace_back(DType::bfloat16, matrix, numbers(DType::bfloat16, matrix_size, 3));
    return made;
}

std::vector<float> gradient(int rank, int step, std::int64_t size) {
    std::vector<float> made(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < made.size(); ++i) {
        made[i] = static_cast<float>((i * 7 + static_cast<std::size_t>(rank * 31 + step * 5)) % 97) * 0.01f - 0.3f;
    }
    return made;
}

std::vector<float>& operator+=(std::vector<float>& sum, const std::vector<float>& values) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    return sum;
}

/// Adds up to the left the largest power of two that leaves some, and the others to the right.
template <class AddendOf>
auto tree_sum(int first, int count, const AddendOf& addend_of) {
    if (count == 1) return addend_of(first);
    const auto branch = static_cast<int>(std::bit_floor(static_cast<unsigned>(count - 1)));
    auto sum = tree_sum(first, branch, addend_of);
    sum += tree_sum(first + branch, count - branch, addend_of);
    return sum;
}

bool same(const std::vector<Array>& a, const std::vector<Array>& b) {
    bool is_same = true;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const auto bytes = static_cast<std::size_t>(a[i].tensor().size_bytes());
        is_same = is_same && std::memcmp(a[i].data(), b[i].data(), bytes) == 0;
    }
    return is_same;
}

/// The gradients of one step of all variables.
struct Gradients {
    Gradients(int rank, int step)
        : first(gradient(rank, step, large)),
          second(gradient(rank, step, small)),
          third(gradient(rank, step, matrix_size)) {}

    void operator+=(const Gradients& other) {
        first += other.first;
        second += other.second;
        third += other.third;
    }

    void apply_to(fusedopt::Optimizer& optimizer) const {
        optimizer.apply({fusedopt::Tensor(first), fusedopt::Tensor(second),
                         fusedopt::Tensor(third.data(), DType::float32, matrix)});
    }

    std::vector<float> first, second, third;
};

/// Trains one optimizer, and as many ranks as are asked for, of which each keeps `most` momenta at most.
void check_bits_of_one(const fusedopt::Rule& rule, const fusedopt::Options& options, int size, std::int64_t most) {
    const std::vector<Array> expected = variables();
    fusedopt::Optimizer single(rule, options);
    single.build(tensors(expected));
    for (int step = 0; step < steps; ++step) {
        tree_sum(0, size, [&](int rank) { return Gradients(rank, step); }).apply_to(single);
    }
    std::vector<std::vector<Array>> found(static_cast<std::size_t>(size));
    std::vector<std::int64_t> kept(found.size());
    for (std::vector<Array>& each : found) each = variables();
    on_ranks(size, [&](int rank, Communicator communicator) {
        const auto own = static_cast<std::size_t>(rank);
        fusedopt::Optimizer optimizer(rule, options);
        optimizer.shard(std::move(communicator));
        optimizer.build(tensors(found[own]));
        for (int step = 0; step < steps; ++step) Gradients(rank, step).apply_to(optimizer);
        for (const auto& [name, tensor] : optimizer.variables()) {
            if (name.starts_with("momentum/")) kept[own] += tensor.size();
        }
    });
    std::int64_t total = 0;
    for (std::size_t k = 0; k < found.size(); ++k) {
        CHECK(same(found[k], expected));
        CHECK(kept[k] <= most);
        total += kept[k];
    }
    CHECK_EQUAL(total, large + small + matrix_size);
}

/// Without the matrix.
std::vector<Array> vectors() {
    std::vector<Array> made = variables();
    made.pop_back();
    return made;
}

}  // namespace

TEST(ranks_have_the_bits_of_one_optimizer) {
    using fusedopt::SlotDType;
    const fusedopt::Options common{.weight_decay = 0.01, .global_clipnorm = 1.0, .use_ema = true};
    fusedopt::Options coded = common;
    coded.slot_dtype = SlotDType::float8;  // of the largest one alone, though its pieces are small
    coded.master = false;
    coded.seed = 5;
    for (int size = 1; size <= 4; ++size) {
        const std::int64_t share = (large + small + matrix_size) / size + 1024;
        check_bits_of_one(fusedopt::Adam{}, common, size, share);
        check_bits_of_one(fusedopt::Adam{}, coded, size, share);
        check_bits_of_one(OwnLion{}, common, size, share);
        check_bits_of_one(OwnLion{}, coded, size, share);
        check_bits_of_one(fusedopt::Lamb{}, coded, size, large + small + matrix_size);
        check_bits_of_one(fusedopt::Muon{.matrix_product = multiply}, {.clipnorm = 1.0, .use_ema = true}, size, share);
        check_bits_of_one(fusedopt::RMSprop{.momentum = 0.9, .rowwise = true}, common, size, share);
    }
}

TEST(several_optimizers_have_the_bits_of_one_process_and_take_more_variables) {
    const auto make = [] {
        return fusedopt::MultiOptimizer({std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}),
                                         std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{.momentum = 0.9})},
                                        std::nullopt, 1.0);
    };
    const auto train = [](fusedopt::MultiOptimizer& optimizer, const std::vector<Array>& arrays, const auto& of_step) {
        const std::vector<fusedopt::Tensor> all = tensors(arrays);
        optimizer.build(std::span(all).last(1), std::array<std::size_t, 1>{1});
        std::vector<float> second = of_step(0, small);
        optimizer.apply({fusedopt::Tensor(second)});
        optimizer.build(all, std::array<std::size_t, 2>{0, 1});
        std::vector<float> first = of_step(1, large);
        second = of_step(1, small);
        optimizer.apply({fusedopt::Tensor(first), fusedopt::Tensor(second)});
        return optimizer.global_norm().value_or(0.0);
    };
    for (int size = 1; size <= 4; ++size) {
        const std::vector<Array> expected = vectors();
        fusedopt::MultiOptimizer single = make();
        const double norm = train(single, expected, [&](int step, std::int64_t elements) {
            return tree_sum(0, size, [&](int rank) { return gradient(rank, step, elements); });
        });
        std::vector<std::vector<Array>> found(static_cast<std::size_t>(size));
        for (std::vector<Array>& each : found) each = vectors();
        on_ranks(size, [&](int rank, Communicator communicator) {
            fusedopt::MultiOptimizer optimizer = make();
            optimizer.shard(std::move(communicator));
            const double of_rank =
                train(optimizer, found[static_cast<std::size_t>(rank)],
                      [&](int step, std::int64_t elements) { return gradient(rank, step, elements); });
            CHECK_EQUAL(of_rank, norm);
            CHECK_EQUAL(optimizer.borders(1).back(), small);
            CHECK_EQUAL(optimizer.iterations(), 2);
        });
        for (const std::vector<Array>& each : found) CHECK(same(each, expected));
    }
}

TEST(members_of_a_sharded_optimizer_take_no_calls) {
    Group group(1);
    const auto member =
        std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}, fusedopt::Options{.weight_decay = 0.01});
    fusedopt::MultiOptimizer optimizer({member});
    CHECK_REFUSED(optimizer.agreements(), "expected a sharded optimizer");
    optimizer.shard(group.rank(0));
    CHECK_REFUSED(optimizer.shard(group.rank(0)), "sharded already");
    CHECK_REFUSED(optimizer.agree("a call", {}, "a reason"), "a reason");
    const std::vector<Array> arrays = vectors();
    CHECK_REFUSED(member->build(tensors(arrays)), "on the MultiOptimizer around this optimizer");
    optimizer.build(tensors(arrays), std::array<std::size_t, 2>{0, 0});
    const std::vector<float> first(large), second(small);
    CHECK_REFUSED(member->apply({fusedopt::Tensor(first), fusedopt::Tensor(second)}), "apply: expected on the Multi");
    CHECK_REFUSED(member->finalize_variable_values(tensors(arrays)), "on the MultiOptimizer around");
    CHECK_REFUSED(member->begin_evaluation(), "on the MultiOptimizer around");
    CHECK_REFUSED(member->borders(0), "on the MultiOptimizer around");
    CHECK(same(arrays, vectors()));
    const std::vector<Array> moved = vectors();
    optimizer.rebind(tensors(moved));
    optimizer.apply({fusedopt::Tensor(first), fusedopt::Tensor(second)});
    CHECK(!same(moved, vectors()));
    CHECK(same(arrays, vectors()));
}

TEST(what_one_rank_refuses_all_refuse) {
    std::vector<std::vector<Array>> found(3);
    for (std::vector<Array>& each : found) each = variables();
    on_ranks(3, [&](int rank, Communicator communicator) {
        const auto own = static_cast<std::size_t>(rank);
        fusedopt::Optimizer optimizer(fusedopt::SGD{}, {});
        optimizer.shard(std::move(communicator));
        optimizer.build(tensors(found[own]));
        Gradients gradients(rank, 0);
        if (rank == 2) gradients.first.resize(3);
        const std::int64_t before = optimizer.agreements();
        std::string message;
        try {
            gradients.apply_to(optimizer);
        } catch (const std::invalid_argument& error) {
            message = error.what();
        }
        if (rank == 0) {
            CHECK(message.starts_with("rank 2: "));
            CHECK(message.find("expected shape (5000,), found (3,)") != std::string::npos);
            CHECK_EQUAL(optimizer.agreements(), before + 1);
            CHECK_EQUAL(optimizer.iterations(), 0);
        }
    });
    for (const std::vector<Array>& each : found) CHECK(same(each, variables()));
}

TEST(what_cannot_be_sharded_is_refused) {
    Group group(1);
    fusedopt::Optimizer follower(fusedopt::SGD{}, {.row_updates = fusedopt::RowUpdates::caught_up});
    CHECK_REFUSED(follower.shard(group.rank(0)), "found caught_up");
    fusedopt::Optimizer adam(fusedopt::Adam{}, {});
    CHECK_REFUSED(adam.agreements(), "expected a sharded optimizer");
    CHECK_REFUSED(adam.shard({}), "expected the functions alltoallv and allgatherv");
    adam.shard(group.rank(0));
    CHECK_REFUSED(adam.shard(group.rank(0)), "sharded already");
    CHECK_REFUSED(adam.agree("a call", {}, "a reason"), "a reason");
    const std::vector<Array> built = variables();
    adam.build(tensors(built));
    CHECK(adam.borders(0) == (std::vector<std::int64_t>{0, large}));
    CHECK_REFUSED(adam.borders(3), "found 3");
}
