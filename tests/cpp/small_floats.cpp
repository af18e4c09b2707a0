// float16 and bfloat16: every bit pattern is read and measured right, everything between them is rounded right, and
// what the user writes into such a variable wins over its master copy.
#include <cmath>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

constexpr DType small_dtypes[] = {DType::float16, DType::bfloat16};
constexpr double smallest_normal = 0x1p-126;

// The kernels flush subnormal float32 numbers to zero.
double flushed(double x) {
    return std::fabs(x) < smallest_normal ? std::copysign(0.0, x) : x;
}

Values every_pattern(DType dtype) {
    Values values;
    for (unsigned bits = 0; bits < 0x10000; ++bits) {
        values.push_back(from_bits(small_float(dtype), static_cast<std::uint16_t>(bits)));
    }
    return values;
}

// Plain descent at rate 1 from zero: the variable is minus the gradient.
Values descended(DType dtype, const Array& gradient, std::int64_t size) {
    const Array variable(dtype, Values(static_cast<std::size_t>(size)));
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({variable.tensor()});
    optimizer.apply({gradient.tensor()});
    return values_of(variable.tensor());
}

}  // namespace

TEST(every_pattern_is_widened) {
    for (const DType small : small_dtypes) {
        Values expected = every_pattern(small);
        const auto size = static_cast<std::int64_t>(expected.size());
        const Array gradient(small, expected);
        for (double& x : expected) x = 0.0 - flushed(x);
        on_every_level_and_thread_count([&](const std::string&) {
            CHECK_EQUAL(difference(descended(DType::float32, gradient, size), expected), "");
            CHECK_EQUAL(difference(descended(DType::float64, gradient, size), expected), "");
        });
    }
}

TEST(every_pattern_is_measured) {
    for (const DType small : small_dtypes) {
        const Values patterns = every_pattern(small);
        const Array variable(DType::float32, Values(17));
        const Array gradient(small, Values(17));
        on_every_level_and_thread_count([&](const std::string&) {
            fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.global_clipnorm = 1.0});
            optimizer.build({variable.tensor()});
            for (std::size_t i = 0; i < patterns.size(); ++i) {
                std::byte* place = gradient.data() + 2 * (i % 17);
                write(small, patterns[i], place);
                optimizer.apply({gradient.tensor()});
                write(small, 0.0, place);
                const double norm = optimizer.global_norm().value();
                CHECK_EQUAL(std::isfinite(norm), std::isfinite(patterns[i]));
                if (std::isfinite(norm)) CHECK_EQUAL(norm, std::fabs(flushed(patterns[i])));
            }
        });
    }
}

TEST(everything_is_narrowed_to_the_nearest_even) {
    for (const DType small : small_dtypes) {
        Values values;
        const Values patterns = every_pattern(small);
        for (std::size_t i = 0; i + 1 < patterns.size(); ++i) {
            const double middle = (patterns[i] + patterns[i + 1]) / 2;
            if (std::isfinite(patterns[i])) values.push_back(patterns[i]);
            if (!std::isfinite(middle)) continue;
            const auto tie = static_cast<float>(middle);
            values.push_back(static_cast<double>(tie));
            values.push_back(static_cast<double>(std::nextafterf(tie, HUGE_VALF)));
            values.push_back(static_cast<double>(std::nextafterf(tie, -HUGE_VALF)));
        }
        for (const double x : {65504.0, 65519.99, 65520.0, 1e30, 3.4028234e38, HUGE_VAL, -HUGE_VAL, std::nan("")}) {
            values.push_back(x);
        }
        values = rounded(DType::float32, values);
        const auto size = static_cast<std::int64_t>(values.size());
        const Array gradient(DType::float32, values);
        for (double& x : values) x = 0.0 - flushed(x);
        const Values expected = rounded(small, values);
        on_every_level_and_thread_count(
            [&](const std::string&) { CHECK_EQUAL(difference(descended(small, gradient, size), expected), ""); });
    }
}

TEST(what_the_user_writes_wins_over_the_master_copy) {
    const std::int64_t size = 1500;
    for (const DType small : small_dtypes) {
        for (const bool accumulates : {false, true}) {
            fusedopt::Options options{.learning_rate = 0.01, .use_ema = true, .ema_momentum = 0.5};
            if (accumulates) options.gradient_accumulation_steps = 2;
            const Array variable(small, numbers(small, size, 1));
            fusedopt::Optimizer optimizer(fusedopt::Adam{}, options);
            optimizer.build({variable.tensor()});
            reference::Optimizer expected(fusedopt::Adam{}, options);
            expected.add(small, values_of(variable.tensor()));
            for (unsigned step = 0; step < 6; ++step) {
                const Values values = numbers(DType::float32, size, 10 + step);
                for (std::size_t k = step; k < 1500; k += 11) {
                    const double written = 0.25 * static_cast<double>(k);
                    write(small, written, variable.data() + 2 * k);
                    expected.write(0, k, read(small, variable.data() + 2 * k));
                }
                optimizer.apply({Array(DType::float32, values).tensor()});
                expected.step({{DType::float32, values}});
                CHECK_EQUAL(reference::difference(optimizer, expected, std::vector{variable.tensor()}), "");
            }
        }
    }
}
