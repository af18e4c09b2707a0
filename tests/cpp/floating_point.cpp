// The caller's floating-point state: kernels run in their own and always put the caller's back; the numbers do not
// depend on it.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Rounding, flushing and traps; not the flags of exceptions that have happened.
std::uint64_t control_state() {
#if defined(__x86_64__)
    return _mm_getcsr() & ~0x3fu;
#elif defined(__aarch64__)
    std::uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    return state;
#else
    return static_cast<std::uint64_t>(std::fegetround());
#endif
}

void set_flushing([[maybe_unused]] bool on) {
#if defined(__x86_64__)
    _mm_setcsr(on ? _mm_getcsr() | 0x8040u : _mm_getcsr() & ~0x8040u);
#elif defined(__aarch64__)
    const std::uint64_t flush = std::uint64_t{1} << 24;
    const std::uint64_t state = on ? control_state() | flush : control_state() & ~flush;
    __asm__ volatile("msr fpcr, %0" : : "r"(state));
#endif
}

constexpr int rounding_modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};

/// Calls `body` in every state a caller may be in.
template <class Body>
void in_every_caller_state(const Body& body) {
    for (const int mode : rounding_modes) {
        for (const bool flushes : {false, true}) {
            std::fesetround(mode);
            set_flushing(flushes);
            body();
            std::fesetround(FE_TONEAREST);
            set_flushing(false);
        }
    }
}

const fusedopt::Options every_sweep{.clipnorm = 1.0, .use_ema = true, .gradient_accumulation_steps = 2};

struct Caught : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace

TEST(the_caller_gets_its_state_back) {
    const Array variable(DType::float32, numbers(DType::float32, 50000, 1));
    const Array gradient(DType::float64, numbers(DType::float64, 50000, 2));
    const Array misshapen(DType::float32, Values(3));
    for (const int threads : thread_counts()) {
        fusedopt::set_num_threads(threads);
        in_every_caller_state([&] {
            const std::uint64_t state = control_state();
            fusedopt::Optimizer optimizer(fusedopt::Adam{}, every_sweep);
            optimizer.build({variable.tensor()});
            CHECK_EQUAL(control_state(), state);
            for (int k = 0; k < 4; ++k) optimizer.apply({gradient.tensor()});
            CHECK_EQUAL(control_state(), state);
            optimizer.finalize_variable_values(std::vector{variable.tensor()});
            CHECK_EQUAL(control_state(), state);
            CHECK_REFUSED(optimizer.apply({misshapen.tensor()}), "expected shape");
            CHECK_EQUAL(control_state(), state);
            fusedopt::LossScaleOptimizer scaled(std::move(optimizer));
            scaled.apply({gradient.tensor()});
            CHECK_EQUAL(control_state(), state);
        });
    }
    fusedopt::set_num_threads(1);
}

TEST(functions_run_in_the_callers_state) {
    const Array variable(DType::float32, Values{1.0});
    in_every_caller_state([&] {
        const std::uint64_t state = control_state();
        bool throws = false;
        const auto function = [&](std::int64_t) {
            CHECK_EQUAL(control_state(), state);
            if (throws) throw Caught("from a learning rate");
            return 0.5;
        };
        fusedopt::Optimizer optimizer(fusedopt::Adam{.beta_1 = function, .beta_2 = function},
                                      {.learning_rate = function, .global_clipnorm = 1.0});
        optimizer.build({variable.tensor()});
        optimizer.apply({Array(DType::float32, Values{1.0}).tensor()});
        throws = true;
        try {
            optimizer.apply({Array(DType::float32, Values{1.0}).tensor()});
            CHECK(false);
        } catch (const Caught&) {
        }
        CHECK_EQUAL(control_state(), state);
    });
}

TEST(the_numbers_do_not_depend_on_the_callers_state) {
    const std::int64_t size = 3000;
    for (const auto& [name, rule] : rule_cases()) {
        for (const DType dtype : all_dtypes) {
            const Array start(dtype, numbers(dtype, size, 1));
            const Array gradient(DType::float32, numbers(DType::float32, size, 2));
            std::vector<std::byte> expected;
            in_every_caller_state([&, &rule = rule, &name = name] {
                const Array variable = start.copy();
                fusedopt::Optimizer optimizer(rule, every_sweep);
                optimizer.build({variable.tensor()});
                for (int k = 0; k < 6; ++k) optimizer.apply({gradient.tensor()});
                const std::vector<std::byte> found = snapshot(optimizer, std::vector{variable.tensor()});
                if (expected.empty()) expected = found;
                CHECK_EQUAL(found == expected ? "" : name, "");
            });
        }
    }
}

TEST(loss_scales_do_not_depend_on_the_callers_state) {
    const std::int64_t size = 300;
    const Array start(DType::float64, numbers(DType::float64, size, 1));
    const Array gradient(DType::float64, numbers(DType::float64, size, 2));
    const auto single = [](fusedopt::Options options) {
        return std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, std::move(options));
    };
    for (const double scale : {3.0, 49.0, 1000.1}) {
        const auto same_in_every_state = [&](const auto& step) {
            std::vector<std::byte> expected;
            in_every_caller_state([&] {
                const Array variable = start.copy();
                step(std::vector{variable.tensor()}, std::vector{gradient.tensor()});
                const Values values = values_of(variable.tensor());
                const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
                const std::vector<std::byte> found(bytes, bytes + values.size() * sizeof(double));
                if (expected.empty()) expected = found;
                CHECK(found == expected);
            });
        };
        const std::vector<std::size_t> assignment = {0};
        same_in_every_state([&](const auto& variables, const auto& gradients) {
            const auto optimizer = single({.loss_scale_factor = scale});
            optimizer->build(variables);
            optimizer->apply(gradients);
            optimizer->apply(gradients, variables);
        });
        same_in_every_state([&](const auto& variables, const auto& gradients) {
            fusedopt::MultiOptimizer optimizer({single({})}, scale);
            optimizer.build(variables, assignment);
            optimizer.apply(gradients);
            optimizer.apply(gradients, variables);
        });
        same_in_every_state([&](const auto& variables, const auto& gradients) {
            fusedopt::LossScaleOptimizer optimizer(single({}), {.initial_scale = scale});
            optimizer.build(variables);
            CHECK_EQUAL(optimizer.apply(gradients), true);
            CHECK_EQUAL(optimizer.dynamic_scale(), scale == 1000.1 ? static_cast<double>(1000.1f) : scale);
        });
    }
}

TEST(schedules_do_not_depend_on_the_callers_state) {
    const auto same_in_every_state = [](const auto& schedule) {
        Values expected;
        in_every_caller_state([&] {
            const std::uint64_t state = control_state();
            Values found;
            for (int step = -50; step < 400; ++step) found.push_back(schedule(step));
            CHECK_EQUAL(control_state(), state);
            CHECK_REFUSED(schedule(std::nan("")), "step");
            CHECK_EQUAL(control_state(), state);
            // The rate of a step, and the one that the optimizer names.
            fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = schedule});
            found.push_back(optimizer.learning_rate());
            if (expected.empty()) expected = found;
            CHECK_EQUAL(difference(found, expected), "");
        });
    };
    using namespace fusedopt;
    same_in_every_state(ExponentialDecay{.initial_learning_rate = 0.1, .decay_steps = 7, .decay_rate = 0.3});
    same_in_every_state(ExponentialDecay{.initial_learning_rate = 1e-300, .decay_steps = 7, .decay_rate = 0.3});
    same_in_every_state(InverseTimeDecay{.initial_learning_rate = 0.1, .decay_steps = 7, .decay_rate = 0.3});
    same_in_every_state(PolynomialDecay{.initial_learning_rate = 0.1, .decay_steps = 333, .power = 0.7});
    same_in_every_state(PolynomialDecay{.initial_learning_rate = 0.1, .decay_steps = 33, .power = 2.0, .cycle = true});
    same_in_every_state(PiecewiseConstantDecay{.boundaries = {7, 70}, .values = {0.1, 0.01, 0.001}});
    same_in_every_state(CosineDecay{
        .initial_learning_rate = 0.1, .decay_steps = 333, .alpha = 0.1, .warmup_target = 0.3, .warmup_steps = 33});
    same_in_every_state(CosineDecayRestarts{.initial_learning_rate = 0.1, .first_decay_steps = 7, .m_mul = 0.9});
    same_in_every_state(CosineDecayRestarts{.initial_learning_rate = 0.1, .first_decay_steps = 7, .t_mul = 1.0});
}

// Loaded without it, Nadam's product is computed again.
TEST(a_recomputed_product_does_not_depend_on_the_callers_state) {
    std::vector<std::byte> expected;
    in_every_caller_state([&] {
        const Array variable(DType::float64, Values{1.0});
        fusedopt::LossScaleOptimizer optimizer(fusedopt::Optimizer(fusedopt::Nadam{}, {}));
        optimizer.build({variable.tensor()});
        for (int k = 0; k < 30; ++k) optimizer.apply({Array(DType::float64, Values{1.0}).tensor()});
        std::vector<Tensor> values;
        for (const auto& [name, tensor] : optimizer.variables()) values.push_back(tensor);
        optimizer.set_weights(values);
        const std::vector<std::byte> found = snapshot(optimizer, std::vector{variable.tensor()});
        if (expected.empty()) expected = found;
        CHECK(found == expected);
    });
}

TEST(the_numbers_of_matrices_do_not_depend_on_it_either) {
    std::uint64_t state = 0;
    const auto in_the_callers_state = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
        CHECK_EQUAL(control_state(), state);
        std::fenv_t environment;
        std::fegetenv(&environment);
        std::fesetenv(FE_DFL_ENV);
        multiply(a, b, product);
        std::fesetenv(&environment);
    };
    const std::pair<fusedopt::Rule, Shape> rules[] = {
        {fusedopt::Adafactor{}, {70, 1100}},
        {fusedopt::Muon{.matrix_product = in_the_callers_state, .ns_steps = 2}, {10, 1100}},
        {fusedopt::Muon{.matrix_product = in_the_callers_state, .ns_steps = 2}, {1100, 10}},
    };
    for (const auto& [rule, shape] : rules) {
        for (const DType dtype : {DType::float32, DType::float64}) {
            const Array start(dtype, shape, numbers(dtype, count(shape), 1));
            const Array gradient(DType::float32, shape, numbers(DType::float32, count(shape), 2));
            std::vector<std::byte> expected;
            in_every_caller_state([&, &rule = rule] {
                state = control_state();
                const Array variable = start.copy();
                fusedopt::Optimizer optimizer(rule, {.clipnorm = 1.0, .use_ema = true});
                optimizer.build({variable.tensor()});
                for (int k = 0; k < 2; ++k) optimizer.apply({gradient.tensor()});
                const std::vector<std::byte> found = snapshot(optimizer, std::vector{variable.tensor()});
                if (expected.empty()) expected = found;
                CHECK(found == expected);
                CHECK_EQUAL(control_state(), state);
            });
        }
    }
}

#if defined(__x86_64__) || defined(__aarch64__)

TEST(subnormal_numbers_are_flushed_on_every_thread) {
    struct Case {
        DType dtype;
        double subnormal, normal;
    };
    for (const auto& [dtype, subnormal, normal] :
         {Case{DType::float32, 1e-40, 2e-38}, Case{DType::float64, 1e-310, 4e-308}}) {
        const Values expected(50000, 0.0);
        const Array zeros(dtype, expected), tiny(dtype, Values(50000, subnormal)), halved(dtype, Values(50000, normal));
        on_every_level_and_thread_count([&](const std::string&) {
            // What is read is flushed: a subnormal weight.
            const Array variable = tiny.copy();
            fusedopt::Optimizer descent(fusedopt::SGD{}, {.learning_rate = 1.0});
            descent.build({variable.tensor()});
            descent.apply({zeros.tensor()});
            CHECK_EQUAL(difference(values_of(variable.tensor()), expected), "");
            // So is what is computed: a normal momentum that decays to a subnormal one.
            const Array other = zeros.copy();
            fusedopt::Optimizer momentum(fusedopt::SGD{.momentum = 0.25}, {.learning_rate = 1.0});
            momentum.build({other.tensor()});
            momentum.apply({halved.tensor()});
            momentum.apply({zeros.tensor()});
            const Values slot = values_of(momentum.variables().back().tensor);
            CHECK(std::all_of(slot.begin(), slot.end(), [](double m) { return m == 0.0; }));
            // And gradients of other dtypes.
            const Array third = zeros.copy();
            fusedopt::Optimizer mixed(fusedopt::SGD{}, {.learning_rate = 1.0});
            mixed.build({third.tensor()});
            for (const DType gradient_dtype : {DType::float32, DType::bfloat16}) {
                mixed.apply({Array(gradient_dtype, Values(50000, 1e-40)).tensor()});
            }
            CHECK_EQUAL(difference(values_of(third.tensor()), expected), "");
        });
    }
}

#endif

#if defined(__x86_64__)

// A program may ask for a signal at its own first NaN; ours are none of its business.
TEST(kernels_do_not_trap) {
    const double infinity = std::numeric_limits<double>::infinity();
    const Array variable(DType::float32, numbers(DType::float32, 50000, 1));
    Values values = numbers(DType::float64, 50000, 2);
    values[3] = infinity;
    values[4] = std::nan("");
    values[5] = 1e300;
    const Array gradient(DType::float64, values);
    for (const int threads : thread_counts()) {
        fusedopt::set_num_threads(threads);
        for (const auto& [name, rule] : rule_cases()) {
            fusedopt::Optimizer optimizer(rule, every_sweep);
            optimizer.build({variable.tensor()});
            const unsigned state = _mm_getcsr();
            _mm_setcsr(state & ~0x0e80u & ~0x3fu);  // traps on for invalid, division by zero, overflow, underflow
            for (int k = 0; k < 3; ++k) optimizer.apply({gradient.tensor()});
            _mm_setcsr(state);
        }
    }
    fusedopt::set_num_threads(1);
}

#endif
