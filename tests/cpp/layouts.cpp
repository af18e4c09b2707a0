// Gradients in any memory layout give what their values give; none of them is shuffled, and no byte beside it is read.
#include <numeric>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

struct Layout {
    std::string name;
    Shape shape;
    Shape strides;           // in elements
    std::size_t offset = 0;  // in bytes, to misalign
};

Shape packed(const Shape& shape) {
    Shape strides(shape.size());
    std::int64_t stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
        strides[d] = stride;
        stride *= shape[d];
    }
    return strides;
}

Shape times(Shape strides, std::int64_t factor) {
    for (std::int64_t& stride : strides) stride *= factor;
    return strides;
}

Shape transposed(const Shape& shape) {
    const Shape reversed(shape.rbegin(), shape.rend());
    const Shape strides = packed(reversed);
    return {strides.rbegin(), strides.rend()};
}

Shape with(Shape strides, std::size_t axis, std::int64_t stride) {
    strides[axis] = stride;
    return strides;
}

std::vector<Layout> layouts_of(const Shape& shape) {
    const Shape plain = packed(shape);
    const std::size_t last = shape.size() - 1;
    return {
        {"contiguous", shape, plain},
        {"transposed", shape, transposed(shape)},
        {"reversed", shape, times(plain, -1)},
        {"every third", shape, times(plain, 3)},
        {"transposed, every second, reversed", shape, times(transposed(shape), -2)},
        {"first axis reversed", shape, with(plain, 0, -plain[0])},
        {"first axis broadcast", shape, with(plain, 0, 0)},
        {"last axis broadcast", shape, with(plain, last, 0)},
        {"one number everywhere", shape, times(plain, 0)},
        {"sliding windows", shape, with(plain, 0, 1)},
        {"misaligned", shape, plain, 1},
        {"misaligned and reversed", shape, times(plain, -1), 1},
    };
}

// A view that reaches exactly from one guard page to, or close to, the other.
class Gradient {
public:
    Gradient(const Layout& layout, DType dtype, Placement placement, unsigned seed)
        : layout_(layout),
          dtype_(dtype),
          memory_(extent() * item_size(dtype) + layout.offset, placement, item_size(dtype)) {
        const Values values = numbers(dtype, static_cast<std::int64_t>(extent()), seed);
        for (std::size_t i = 0; i < values.size(); ++i) write(dtype, values[i], first_byte() + i * item_size(dtype));
        for (std::int64_t& stride : layout_.strides) stride *= static_cast<std::int64_t>(item_size(dtype));
    }

    Tensor tensor() const {
        return Tensor(static_cast<const void*>(element(lowest())), dtype_, layout_.shape, layout_.strides);
    }

    Values values() const {
        Values list;
        Shape index(layout_.shape.size());
        for (std::int64_t i = 0; i < count(layout_.shape); ++i) {
            const std::byte* at = element(lowest());
            for (std::size_t d = 0; d < index.size(); ++d) at += index[d] * layout_.strides[d];
            list.push_back(read(dtype_, at));
            for (std::size_t d = index.size(); d-- > 0 && ++index[d] == layout_.shape[d];) index[d] = 0;
        }
        return list;
    }

private:
    std::size_t extent() const {
        std::int64_t elements = 1;
        for (std::size_t d = 0; d < layout_.shape.size(); ++d) {
            elements += std::abs(layout_.strides[d]) * (layout_.shape[d] - 1);
        }
        return static_cast<std::size_t>(elements);
    }

    // Bytes from the view's first element down to the lowest one.
    std::int64_t lowest() const {
        std::int64_t reach = 0;
        for (std::size_t d = 0; d < layout_.shape.size(); ++d) {
            if (layout_.strides[d] < 0) reach -= layout_.strides[d] * (layout_.shape[d] - 1);
        }
        return reach;
    }

    std::byte* first_byte() const { return memory_.data() + layout_.offset; }
    std::byte* element(std::int64_t bytes) const { return first_byte() + bytes; }

    Layout layout_;
    DType dtype_;
    Memory memory_;
};

const std::vector<OptionCase>& options_with_every_way_to_read() {
    static const std::vector<OptionCase> cases = {
        {"plain", {}},
        {"clipnorm", {.clipnorm = 1.0}},
        {"accumulation", {.clipnorm = 1.0, .loss_scale_factor = 3.0, .gradient_accumulation_steps = 2}},
    };
    return cases;
}

/// Takes steps with a gradient of this layout, and compares them with the reference: on all that `everywhere` calls it
/// for.
template <class Everywhere>
void check_layout(const Layout& layout, DType dtype, DType gradient_dtype, unsigned steps,
                  const Everywhere& everywhere) {
    std::vector<Gradient> gradients;
    std::vector<Values> values;
    for (unsigned step = 0; step < steps; ++step) {
        gradients.emplace_back(layout, gradient_dtype, step % 2 ? Placement::at_end : Placement::at_beginning, step);
        values.push_back(gradients.back().values());
    }
    const Array start(dtype, layout.shape, numbers(dtype, count(layout.shape), 7));
    for (const auto& [name, options] : options_with_every_way_to_read()) {
        reference::Optimizer expected(fusedopt::AdamW{}, options);
        expected.add(dtype, values_of(start.tensor()));
        for (const Values& gradient : values) expected.step({{gradient_dtype, gradient}});
        everywhere([&, &name = name, &options = options](const std::string& where) {
            const Array variable = start.copy();
            fusedopt::Optimizer optimizer(fusedopt::AdamW{}, options);
            optimizer.build({variable.tensor()});
            for (const Gradient& gradient : gradients) optimizer.apply({gradient.tensor()});
            const std::string found = reference::difference(optimizer, expected, std::vector{variable.tensor()});
            CHECK_EQUAL(found.empty() ? "" : where + ", " + layout.name + ", " + name + ": " + found, "");
        });
    }
}

void check_layouts(const std::vector<Layout>& layouts) {
    const auto on_every_level = [](const auto& body) {
        for (const std::string& level : fusedopt::supported_levels()) {
            fusedopt::set_level(level);
            body(level);
        }
    };
    for (const Layout& layout : layouts) {
        for (const DType dtype : all_dtypes) {
            for (const DType gradient_dtype : all_dtypes) {
                check_layout(layout, dtype, gradient_dtype, 4, on_every_level);
            }
        }
    }
}

}  // namespace

TEST(layouts_of_small_gradients) {
    check_layouts(layouts_of({3, 5, 7}));
    check_layouts(layouts_of({29, 41}));
    check_layouts(layouts_of({2, 1, 3, 1, 2, 2, 2, 3}));  // more dimensions than a Tensor holds without allocating
    check_layouts({
        {"no dimension", {}, {}},
        {"no dimension, misaligned", {}, {}, 1},
        {"empty", {3, 0, 2}, {-5, 7, 11}},
        {"extents of one", {1, 5, 1}, {-1000, 1, 1000000}},
    });
}

TEST(layouts_on_threads) {
    const Shape shape = {37, 29, 63};  // enough for two threads
    for (const Layout& layout : layouts_of(shape)) {
        check_layout(layout, DType::float32, DType::bfloat16, 2,
                     [](const auto& body) { on_every_level_and_thread_count(body); });
    }
}

TEST(a_gradient_may_step_over_a_variable) {
    std::vector<float> rows(3 * 8);
    std::iota(rows.begin(), rows.end(), 0.0f);
    const Shape shape = {2, 4};
    const Shape over = {64, 4}, across = {32, 4};  // rows are 32 bytes long: 0 and 2, 0 and 1
    const Tensor variable(static_cast<void*>(rows.data() + 8), DType::float32, shape);
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({variable});
    optimizer.apply({Tensor(static_cast<const void*>(rows.data()), DType::float32, shape, over)});
    CHECK_EQUAL(difference(values_of(variable), {8, 8, 8, 8, -4, -4, -4, -4}), "");
    CHECK_REFUSED(optimizer.apply({Tensor(static_cast<const void*>(rows.data()), DType::float32, shape, across)}),
                  "overlapping variable 0");
}

TEST(the_same_memory_in_another_layout) {
    const Shape shape = {2, 2}, across = {4, 8};
    const std::vector<float> numbers = {1, 2, 3, 4};
    const std::vector plain = {Tensor(static_cast<const void*>(numbers.data()), DType::float32, shape)};
    const std::vector crossed = {Tensor(static_cast<const void*>(numbers.data()), DType::float32, shape, across)};
    std::vector<float> variable(4);
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({Tensor(static_cast<void*>(variable.data()), DType::float32, shape)});
    for (const auto& gradients : {crossed, plain, crossed, plain, plain}) optimizer.apply(gradients);
    CHECK_EQUAL(difference(values_of(Tensor(variable)), {-5, -12, -13, -20}), "");
}
