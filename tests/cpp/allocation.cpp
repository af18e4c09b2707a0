// After build, a step allocates nothing: operator new is counted here for the whole program.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <set>

#include "cases.hpp"
#include "check.hpp"
#include "hosted.hpp"
#include "own_rules.hpp"
#include "reference.hpp"
#include "row_gradients.hpp"

namespace {

std::atomic<long> allocations{0};

void* allocate(std::size_t size, std::size_t alignment) {
    ++allocations;
    const std::size_t rounded_up = (size + alignment - 1) / alignment * alignment;
#if defined(_WIN32)
    void* memory = _aligned_malloc(rounded_up, alignment);
#else
    void* memory = std::aligned_alloc(alignment, rounded_up);
#endif
    return memory ? memory : throw std::bad_alloc();
}

// Not inlined: GCC would warn that a deallocation function ends in another one.
#if defined(__GNUC__)
__attribute__((noinline))
#endif
void release(void* memory) noexcept {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    std::free(memory);
#endif
}

}  // namespace

void* operator new(std::size_t size) {
    return allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    release(memory);
}

namespace {

std::set<int> alone_and_together() {
    return {1, thread_counts().back()};
}

}  // namespace

TEST(the_counter_counts) {
    const long before = allocations;
    const std::vector<int> something(10);
    CHECK(allocations > before);
    const fusedopt::Optimizer optimizer(fusedopt::SGD{});
    CHECK(allocations > before + 1);
}

namespace {

void check_steps(std::int64_t size, const std::vector<OptionCase>& cases) {
    constexpr std::int64_t columns = 2;
    std::vector<Array> variables, gradients;
    for (const DType dtype : all_dtypes) {
        variables.emplace_back(dtype, Shape{size / columns, columns}, numbers(dtype, size, 1));
        gradients.emplace_back(dtype, Shape{columns, size / columns}, numbers(dtype, size, 2));
    }
    const std::vector<Tensor> targets = tensors(variables);
    std::vector<Tensor> plain, transposed, missing(4), backwards;
    for (const Array& gradient : gradients) {
        const auto item = static_cast<std::int64_t>(item_size(gradient.dtype()));
        plain.emplace_back(static_cast<void*>(gradient.data()), gradient.dtype(), Shape{size / columns, columns});
        transposed.emplace_back(static_cast<void*>(gradient.data()), gradient.dtype(), Shape{size / columns, columns},
                                Shape{item, item * size / columns});
    }
    missing[2] = plain[2];
    const std::vector<Tensor> reversed_targets(targets.rbegin(), targets.rend()),
        reversed(plain.rbegin(), plain.rend());
    std::vector<RuleCase> rules = rule_cases();
    for (const auto& [name, own, built_in] : own_rules) rules.push_back({name, own});
    for (const auto& [rule_name, rule] : rules) {
        for (const auto& [option_name, options] : cases) {
            fusedopt::Optimizer optimizer(rule, options);
            optimizer.build(targets);
            const long before = allocations;
            optimizer.apply(plain);
            optimizer.apply(transposed);
            optimizer.apply(missing);
            optimizer.apply(reversed, reversed_targets);
            optimizer.apply({plain[0], plain[1], Tensor(), transposed[3]});
            CHECK_EQUAL(allocations - before, 0);
            fusedopt::LossScaleOptimizer scaled(std::move(optimizer));
            const long before_scaled = allocations;
            scaled.apply(plain);
            CHECK_EQUAL(allocations - before_scaled, 0);
        }
    }
}

}  // namespace

TEST(a_step_allocates_nothing) {
    fusedopt::set_num_threads(1);
    check_steps(2100, option_cases());
}

TEST(a_step_on_threads_allocates_nothing) {
    const std::vector<OptionCase> cases = option_cases();
    fusedopt::set_num_threads(thread_counts().back());
    check_steps(16400, {cases.front(), cases.back()});  // four such variables are enough for two threads
    fusedopt::set_num_threads(1);
}

TEST(a_step_after_a_change_allocates_nothing) {
    std::vector<Array> variables, gradients;
    for (const DType dtype : all_dtypes) {
        variables.emplace_back(dtype, Shape{10, 210}, numbers(dtype, 2100, 1));
        gradients.emplace_back(dtype, Shape{10, 210}, numbers(dtype, 2100, 2));
    }
    const std::vector<Tensor> given = tensors(gradients);
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            fusedopt::Optimizer optimizer(
                rule, {.use_ema = options.use_ema, .gradient_accumulation_steps = options.gradient_accumulation_steps});
            optimizer.build(tensors(variables));
            optimizer.set_options(options);
            fusedopt::Rule changed = rule;
            if (auto* sgd = std::get_if<fusedopt::SGD>(&changed)) sgd->momentum = 0.0;
            if (auto* rmsprop = std::get_if<fusedopt::RMSprop>(&changed)) rmsprop->momentum = 0.0;
            if (auto* muon = std::get_if<fusedopt::Muon>(&changed)) ++muon->ns_steps;
            for (const fusedopt::Rule& set : {rule, changed, rule}) {
                optimizer.set_rule(set);
                const long before = allocations;
                optimizer.apply(given);
                CHECK_EQUAL(allocations - before, 0);
            }
        }
    }
}

TEST(a_step_of_several_optimizers_allocates_nothing) {
    const Shape shapes[] = {{100, 100}, {20000}, {0}, {10, 1, 10, 1, 10, 1, 10, 1}, {}, {30000}};
    const std::vector<std::size_t> assignment = {0, 1, 1, 1, 0, 0};
    std::vector<Array> variables, gradients;
    for (std::size_t i = 0; i < std::size(shapes); ++i) {
        std::int64_t size = 1;
        for (const std::int64_t extent : shapes[i]) size *= extent;
        variables.emplace_back(all_dtypes[i % 4], shapes[i], numbers(all_dtypes[i % 4], size, 1));
        gradients.emplace_back(DType::float32, shapes[i], numbers(DType::float32, size, 2));
    }
    const std::vector<Tensor> targets = tensors(variables), given = tensors(gradients);
    const std::vector<Tensor> reversed_targets(targets.rbegin(), targets.rend()),
        reversed(given.rbegin(), given.rend());
    std::vector<Tensor> missing(given);
    missing[1] = missing[5] = Tensor();
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        const auto optimizer = std::make_shared<fusedopt::MultiOptimizer>(
            std::vector{std::make_shared<fusedopt::Optimizer>(
                            fusedopt::Adam{}, fusedopt::Options{.global_clipnorm = 1.0, .use_ema = true}),
                        std::make_shared<fusedopt::Optimizer>(fusedopt::Lamb{},
                                                              fusedopt::Options{.gradient_accumulation_steps = 2}),
                        std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{})});
        optimizer->build(targets, assignment);
        const auto step = [&](auto& stepped) {
            const long before = allocations;
            for (int k = 0; k < 2; ++k) {
                stepped.apply(given);
                stepped.apply(missing);
                stepped.apply(given, targets);
                stepped.apply(reversed, reversed_targets);
                for (const std::size_t i : {5u, 3u}) {
                    stepped.apply(std::span(given).subspan(i, 1), std::span(targets).subspan(i, 1));
                }
            }
            return allocations - before;
        };
        CHECK_EQUAL(step(*optimizer), 0);
        fusedopt::LossScaleOptimizer scaled(optimizer);
        CHECK_EQUAL(step(scaled), 0);
        fusedopt::MultiOptimizer clipped(
            std::vector{std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}),
                        std::make_shared<fusedopt::Optimizer>(fusedopt::Lamb{},
                                                              fusedopt::Options{.gradient_accumulation_steps = 2})},
            std::nullopt, 1.0, true);
        clipped.build(targets, assignment);
        CHECK_EQUAL(step(clipped), 0);
    }
    fusedopt::set_num_threads(1);
}

TEST(a_repeated_hosted_step_allocates_nothing) {
    const Shape shapes[] = {{100, 100}, {20000}, {0}, {10, 1, 10, 1, 10, 1}, {}, {30000}};
    std::vector<Kept> kept;
    std::vector<Array> gradients;
    for (std::size_t i = 0; i < std::size(shapes); ++i) {
        kept.emplace_back(Array(all_dtypes[i % 4], shapes[i], numbers(all_dtypes[i % 4], count(shapes[i]), 1)));
        gradients.emplace_back(DType::float32, shapes[i], numbers(DType::float32, count(shapes[i]), 2));
    }
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        for (const auto& [rule, slot_count] :
             {std::pair(fusedopt::Rule(fusedopt::TorchAdamW{}), 2u), std::pair(fusedopt::Rule(fusedopt::Nadam{}), 2u),
              std::pair(fusedopt::Rule(OwnLion{}), 1u)}) {
            std::vector<fusedopt::HostedVariable> variables;
            for (std::size_t i = 0; i < kept.size(); ++i) {
                variables.push_back(kept[i].hosted(gradients[i].tensor(), slot_count));
            }
            variables[0].gradient =
                Tensor(static_cast<void*>(gradients[0].data()), DType::float32, shapes[0], Shape{4, 400});
            fusedopt::HostedStep step;
            fusedopt::HostedGroup groups[] = {{.rule = rule, .variables = std::span(variables).first(2)},
                                              {.rule = rule, .variables = std::span(variables).subspan(2)}};
            for (int k = 0; k < 3; ++k) {
                const long before = allocations;
                groups[0].learning_rate = 0.1 * k;
                for (fusedopt::HostedVariable& variable : variables) variable.step = k + 1;
                step.run(groups, {.max_norm = 1.0, .skip_nonfinite = true});
                if (k > 0) CHECK_EQUAL(allocations - before, 0);
            }
        }
    }
    fusedopt::set_num_threads(1);
}

// A history of a table this small has room for 64 steps.
TEST(a_step_that_makes_rows_catch_up_allocates_nothing) {
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        for (const auto& [rule_name, rule] : rule_cases()) {
            std::vector<Array> variables;
            for (const DType dtype : all_dtypes) variables.emplace_back(dtype, Shape{40, 300}, Values());
            std::optional<fusedopt::Optimizer> optimizer;
            try {
                optimizer.emplace(rule, fusedopt::Options{.row_updates = fusedopt::RowUpdates::caught_up});
            } catch (const std::invalid_argument&) {
                continue;  // the rule does not make rows catch up
            }
            const std::vector<std::string> names{"embedding_0", "embedding_1", "embedding_2", "embedding_3"};
            optimizer->build(tensors(variables), names);
            const Array values(DType::float32, {3, 300}, numbers(DType::float32, 900, 1));
            const Array dense(DType::float32, {40, 300}, numbers(DType::float32, 12000, 2));
            const std::vector<std::int64_t> indices{7, 39, 7};
            const fusedopt::Gradient rows = fusedopt::RowGradient{values.tensor(), Tensor(indices)};
            const auto step = [&] { optimizer->apply({rows, rows, rows, rows}); };
            step();  // buffers grow with the number of rows
            const long before = allocations;
            for (int t = 0; t < 150; ++t) step();
            optimizer->apply({rows, dense.tensor(), Tensor(), rows});
            step();
            optimizer->catch_up();
            optimizer->catch_up(variables[0].tensor(), Tensor(indices));
            step();
            CHECK_EQUAL(allocations - before, 0);
        }
    }
    fusedopt::set_num_threads(1);
}

TEST(a_step_on_codes_allocates_nothing) {
    std::vector<Array> variables, gradients;
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
        variables.emplace_back(dtype, Shape{90, 64}, numbers(dtype, 90 * 64, 1));
        gradients.emplace_back(DType::float32, Shape{90, 64}, numbers(DType::float32, 90 * 64, 2));
    }
    const Rowwise by_rows(DType::float32, Shape{90, 64}, some_rows(90, 70, 1), 3);
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        for (const RuleCase& rule_case : rule_cases()) {
            fusedopt::Optimizer optimizer(rule_case.rule,
                                          {.slot_dtype = fusedopt::SlotDType::bfloat16, .master = false});
            optimizer.build(tensors(variables));
            const long before = allocations;
            for (int k = 0; k < 3; ++k) optimizer.apply({gradients[0].tensor(), gradients[1].tensor()});
            CHECK_EQUAL(allocations - before, 0);
        }
        fusedopt::Optimizer optimizer(fusedopt::AdamW{}, {.slot_dtype = fusedopt::SlotDType::float8, .master = false});
        optimizer.build(tensors(variables));
        for (int k = 0; k < 3; ++k) {
            const long before = allocations;
            optimizer.apply({gradients[0].tensor(), gradients[1].tensor()});
            optimizer.apply({by_rows.given(), gradients[1].tensor()});
            if (k > 0) CHECK_EQUAL(allocations - before, 0);
        }
    }
    fusedopt::set_num_threads(1);
}

// Buffers are as large as the most rows that were given need, whichever of them are equal.
TEST(a_step_with_rows_allocates_nothing_once_as_many_were_given) {
    std::vector<Array> tables;
    for (const DType dtype : all_dtypes) {
        tables.emplace_back(dtype, Shape{500, 64}, numbers(dtype, 500 * 64, 1));
    }
    const auto gradients_of = [&](std::int64_t given, unsigned seed) {
        std::vector<Rowwise> list;
        for (std::size_t i = 0; i < tables.size(); ++i) {
            list.emplace_back(all_dtypes[(i + seed) % 2], Shape{500, 64}, some_rows(500, given, seed + 10), seed);
        }
        return list;
    };
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        for (const auto& [option_name, options] : option_cases()) {
            if (options.gradient_accumulation_steps) continue;
            fusedopt::Optimizer optimizer(fusedopt::AdamW{.weight_decay = {}}, options);
            optimizer.build(tensors(tables));
            for (unsigned k = 0; k < 6; ++k) {
                const std::vector<Rowwise> list = gradients_of(k < 2 ? 700 : 700 - 100 * k, k);
                std::vector<fusedopt::Gradient> given;
                for (const Rowwise& gradient : list) given.push_back(gradient.given());
                const long before = allocations;
                optimizer.apply(given);
                if (k > 1) CHECK_EQUAL(allocations - before, 0);
            }
        }
    }
    fusedopt::set_num_threads(1);
}

// So many rows that their numbers have three digits, which one thread counts in pairs. Indices in order need none.
TEST(no_order_of_rows_needs_more_memory_than_another) {
    constexpr std::int64_t rows = std::int64_t{1} << 23;
    std::vector<float> weights(rows);
    const Tensor table(weights);
    for (const int threads : alone_and_together()) {
        fusedopt::set_num_threads(threads);
        fusedopt::Optimizer optimizer(fusedopt::SGD{});
        optimizer.build({table});
        std::vector<std::int64_t> ascending;
        for (std::int64_t i = 0; i < 70000; ++i) ascending.push_back(100 * i);
        const std::vector<std::int64_t> descending(ascending.rbegin(), ascending.rend());
        const std::vector<float> values(ascending.size());
        const auto step = [&](const std::vector<std::int64_t>& indices, std::size_t count) {
            const Tensor some_values(std::span<const float>{values.data(), count});
            const Tensor some_indices(std::span<const std::int64_t>{indices.data(), count});
            const long before = allocations;
            optimizer.apply({fusedopt::RowGradient{some_values, some_indices}});
            return allocations - before;
        };
        CHECK(step(ascending, ascending.size()) > 0);
        for (const std::size_t count : {ascending.size(), std::size_t{100}}) {
            CHECK_EQUAL(step(descending, count), 0);
            CHECK_EQUAL(step(ascending, count), 0);
        }
    }
    fusedopt::set_num_threads(1);
}
