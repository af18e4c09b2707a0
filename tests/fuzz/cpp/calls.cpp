// A fuzzer of the C++ face: bytes choose an optimizer, arrays and a sequence of calls. A call is refused by
// std::invalid_argument and changes nothing, or it gives the bits that a twin has, which runs on another level with
// another number of threads, and at times goes on as a new optimizer with the old one's state. One file, though long: a
// list of all calls.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <variant>

#include "arguments.hpp"
#include "memory.hpp"

namespace {

using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::abort();
}

/// With FUSEDOPT_FUZZ_TRACE in the environment, each call is told before it is made.
void tell(const std::string& what) {
    static const bool is_on = std::getenv("FUSEDOPT_FUZZ_TRACE") != nullptr;
    if (is_on) std::fprintf(stderr, "%s\n", what.c_str());
}

std::string text_of(const Tensor& tensor) {
    if (!tensor) return "none";
    std::string text(to_string(tensor.dtype()));
    for (const std::int64_t extent : tensor.shape()) text += " " + std::to_string(extent);
    return tensor.is_contiguous() ? text : text + " strided";
}

/// How a call came out: "" or the message of its refusal.
std::string outcome_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        return error.what();
    } catch (const Thrown& error) {
        return error.what();
    } catch (const std::exception& error) {
        fail(std::string("expected std::invalid_argument, found ") + error.what());
    }
    return "";
}

struct Member {
    fusedopt::Rule rule;
    Options options;
};

/// What is fuzzed: an optimizer, several as one, or loss scaling around them.
struct Setup {
    std::vector<Member> members;
    bool is_multi = false, is_scaled = false;
    std::optional<double> loss_scale_factor, global_clipnorm;
    bool skip_nonfinite = false;
    fusedopt::LossScaleOptions scale;

    explicit Setup(Bytes& bytes) {
        is_multi = bytes.once_in(3);
        is_scaled = bytes.once_in(3);
        members.resize(is_multi ? bytes.below(3) + 1 : 1);
        for (Member& member : members) {
            member.rule = any_rule(bytes);
            choose_fields(bytes, member.options);
        }
        if (is_multi && bytes.once_in(2)) choose(bytes, loss_scale_factor);
        if (is_multi && bytes.once_in(2)) choose(bytes, global_clipnorm);
        if (is_multi) choose(bytes, skip_nonfinite);
        if (is_scaled && bytes.once_in(2)) scale = {bytes.number(), bytes.integer()};
    }
};

/// An optimizer with its own copy of the memory.
struct Side {
    std::vector<std::byte> memory;
    std::vector<std::shared_ptr<Optimizer>> members;
    std::shared_ptr<MultiOptimizer> multi;
    std::shared_ptr<LossScaleOptimizer> scaled;

    void make(const Setup& setup) {
        std::vector<std::shared_ptr<Optimizer>> made;
        for (const Member& member : setup.members) {
            tell(visit_rule([](const auto& rule) { return std::string(rule.name); }, member.rule));
            made.push_back(std::make_shared<Optimizer>(member.rule, member.options));
        }
        std::shared_ptr<MultiOptimizer> joint;
        if (setup.is_multi) {
            joint = std::make_shared<MultiOptimizer>(made, setup.loss_scale_factor, setup.global_clipnorm,
                                                     setup.skip_nonfinite);
        }
        std::shared_ptr<LossScaleOptimizer> around;
        if (setup.is_scaled) {
            around = joint ? std::make_shared<LossScaleOptimizer>(joint, setup.scale)
                           : std::make_shared<LossScaleOptimizer>(made[0], setup.scale);
        }
        members = made, multi = joint, scaled = around;
    }

    template <class Function>
    auto with(const Function& function) const {
        return scaled ? function(*scaled) : multi ? function(*multi) : function(*members[0]);
    }

    std::vector<Tensor> views(const std::vector<Place>& places) {
        std::vector<Tensor> found;
        for (const Place& place : places) found.push_back(place.in(memory.data()));
        return found;
    }

    /// All state by name, each NaN as one and the same; nothing during an evaluation, when it must not be read.
    std::map<std::string, std::string> state() const {
        std::map<std::string, std::string> found;
        try {
            for (const auto& [name, tensor] : with([](const auto& optimizer) { return optimizer.state(); })) {
                found[name] = bytes_of(tensor);
            }
        } catch (const std::invalid_argument&) {
            found.clear();
        }
        return found;
    }

    static std::string bytes_of(const Tensor& tensor) {
        const auto* data = static_cast<const char*>(tensor.data());
        if (!is_floating(tensor.dtype())) return {data, static_cast<std::size_t>(tensor.size_bytes())};
        const auto item = static_cast<std::ptrdiff_t>(item_size(tensor.dtype()));
        std::string text;
        for (std::ptrdiff_t i = 0; i < tensor.size(); ++i) {
            const double x = read(tensor.dtype(), static_cast<const std::byte*>(tensor.data()) + i * item);
            x != x ? text += "NaN" : text.append(data + i * item, static_cast<std::size_t>(item));
        }
        return text;
    }
};

class Session {
public:
    explicit Session(std::span<const std::uint8_t> data) : bytes_(data), setup_(bytes_) {
        for (Side& side : sides_) side.memory.resize(memory_size);
        fill(bytes_, sides_[0].memory);
        has_names_ = !bytes_.once_in(3);
        sides_[1].memory = sides_[0].memory;
    }

    void run() {
        if (!on_both([&](Side& side) { side.make(setup_); }).empty()) return;
        build();
        for (int calls = 0; calls < 40 && !bytes_.empty(); ++calls) {
            is_watched_ = bytes_.once_in(2);
            any_call();
            if (is_watched_) compare();
        }
        compare();
    }

private:
    /// Calls with both sides, each with its level and threads; the outcome must be the same.
    std::string on_both(const std::function<void(Side&)>& call) {
        std::vector<std::byte> memory;
        std::string outcomes[2];
        std::map<std::string, std::string> states[2];
        if (is_watched_) {
            // Reading catches rows up, so it is done on both.
            for (int i = 0; i < 2; ++i) states[i] = sides_[i].state();
            memory = sides_[0].memory;
        }
        const auto levels = fusedopt::supported_levels();
        for (int i = 0; i < 2; ++i) {
            fusedopt::set_level(i == 0 ? levels.front() : levels.back());
            fusedopt::set_num_threads(i + 1);
            outcomes[i] = outcome_of([&] { call(sides_[i]); });
        }
        tell(outcomes[0].empty() ? "  done" : "  refused: " + outcomes[0]);
        if (outcomes[0] != outcomes[1]) fail("'" + outcomes[0] + "' here, '" + outcomes[1] + "' with the twin");
        if (is_watched_ && !outcomes[0].empty()) {
            if (memory != sides_[0].memory) fail("a refused call has written: " + outcomes[0]);
            if (states[0] != sides_[0].state()) fail("a refused call has changed the state: " + outcomes[0]);
            sides_[1].state();
        }
        return outcomes[0];
    }

    void compare() {
        const auto mine_of = sides_[0].state(), of_twin = sides_[1].state();
        for (const auto& [name, bytes] : mine_of) {
            if (!of_twin.contains(name) || of_twin.at(name) != bytes) fail("another state than the twin's: " + name);
        }
        if (mine_of.size() != of_twin.size()) fail("the twin has more state");
        for (const Place& place : built_) {
            const Tensor mine = place.in(sides_[0].memory.data()), its = place.in(sides_[1].memory.data());
            if (Side::bytes_of(mine) != Side::bytes_of(its)) fail("other weights than the twin's");
        }
    }

    Place any_place(std::size_t number) {
        const DType dtype = any_dtype(bytes_);
        return laid_out(bytes_, dtype, any_shape(bytes_), static_cast<std::int64_t>(number));
    }

    std::string build() {
        std::vector<Place> places = built_;
        for (std::size_t count = bytes_.below(built_.empty() ? 5 : 3); count > 0 && places.size() < 8; --count) {
            places.push_back(any_place(places.size()));
        }
        if (bytes_.once_in(8) && !places.empty()) places.erase(places.begin());
        if (bytes_.once_in(16) && places.size() > 1) std::swap(places.front(), places.back());
        std::vector<std::string> names(names_of_variables, names_of_variables + places.size());
        if (!has_names_) names.clear();
        if (bytes_.once_in(24) && names.size() > 1) names[1] = names[0];
        std::vector<std::size_t> owners;
        for (std::size_t i = 0; i < places.size(); ++i) owners.push_back(i % setup_.members.size());
        if (bytes_.once_in(24) && !owners.empty()) owners[0] = bytes_.byte();
        const std::size_t excluded = bytes_.once_in(4) ? bytes_.below(places.size() + 1) : places.size();
        tell("build");
        const std::string outcome = on_both([&](Side& side) {
            const std::vector<Tensor> views = side.views(places);
            for (const Tensor& view : views) tell("  " + text_of(view));
            if (excluded < views.size() && built_.empty()) {
                side.members[0]->exclude_from_weight_decay(std::span(&views[excluded], 1));
            }
            if (side.multi) {
                side.multi->build(views, owners, names);
            } else {
                side.with([&](auto& optimizer) {
                    if constexpr (requires { optimizer.build(views, names); }) optimizer.build(views, names);
                });
            }
        });
        if (outcome.empty()) built_ = places, names_ = names;
        if (excluded < places.size()) is_changed_ = true;
        return outcome;
    }

    /// A gradient like its variable, or not at all.
    Place any_gradient(std::size_t i) {
        const std::size_t where = 8 + i;
        if (bytes_.once_in(16) || i >= built_.size()) return any_place(where);
        Place place = laid_out(bytes_, any_dtype(bytes_), built_[i].shape, static_cast<std::int64_t>(where));
        place.is_there = !bytes_.once_in(8);
        return place;
    }

    std::string step() {
        std::vector<Place> values, indices;
        std::size_t count = built_.size();
        if (bytes_.once_in(16)) count = bytes_.below(9);
        const bool has_rows = bytes_.once_in(4);
        for (std::size_t i = 0; i < count; ++i) {
            values.push_back(any_gradient(i));
            indices.push_back({.is_there = false});
            Place& gradient = values.back();
            if (!has_rows || bytes_.once_in(2) || !gradient.is_there || gradient.shape.empty()) continue;
            const std::int64_t rows = static_cast<std::int64_t>(bytes_.below(6));
            Shape shape = gradient.shape;
            shape[0] = rows;
            gradient = laid_out(bytes_, gradient.dtype, shape, 8 + static_cast<std::int64_t>(i));
            indices.back() = laid_out(bytes_, bytes_.once_in(2) ? DType::int32 : DType::int64, {rows}, 7);
            set_indices(indices.back(), i < built_.size() && !built_[i].shape.empty() ? built_[i].shape[0] : 1);
        }
        const std::size_t how = bytes_.below(4);
        std::vector<std::size_t> order;
        for (std::size_t i = 0; i < count; ++i) order.push_back(count - 1 - i);
        if (bytes_.once_in(8) && !order.empty()) order[0] = bytes_.below(10);
        tell("step, way " + std::to_string(how));
        return on_both([&](Side& side) {
            const std::vector<Tensor> dense = side.views(values), rows = side.views(indices);
            for (std::size_t i = 0; i < count; ++i) tell("  " + text_of(dense[i]) + ", rows " + text_of(rows[i]));
            std::vector<fusedopt::Gradient> gradients;
            for (std::size_t i = 0; i < count; ++i) {
                gradients.push_back(rows[i] ? fusedopt::Gradient(fusedopt::RowGradient{dense[i], rows[i]})
                                            : fusedopt::Gradient(dense[i]));
            }
            side.with([&](auto& optimizer) {
                if (how == 1 && !has_rows) {
                    optimizer.apply(dense);
                } else if (how == 2) {
                    optimizer.apply(gradients, side.views(built_));
                } else if (how == 3) {
                    optimizer.apply(gradients, order);
                } else {
                    optimizer.apply(gradients);
                }
            });
        });
    }

    void set_indices(const Place& place, std::int64_t rows) {
        for (std::int64_t k = 0; place.strides.empty() && k < place.shape[0]; ++k) {
            const std::int64_t row =
                bytes_.once_in(24) ? bytes_.integer() : bytes_.byte() % std::max<std::int64_t>(rows, 1);
            for (Side& side : sides_) {
                std::byte* to =
                    side.memory.data() + place.offset + k * static_cast<std::int64_t>(item_size(place.dtype));
                place.dtype == DType::int32
                    ? void(std::memcpy(to, std::array{static_cast<std::int32_t>(row)}.data(), 4))
                    : void(std::memcpy(to, &row, 8));
            }
        }
    }

    std::string any_call() {
        const std::size_t number = bytes_.below(setup_.members.size());
        const std::size_t call = bytes_.below(24);
        if (call > 0 && call < 12) tell("call " + std::to_string(call) + " in the list of any_call");
        switch (call) {
            case 0:
                return build();
            case 1:
                return set_values();
            case 2: {
                Options options = setup_.members[number].options;
                choose_fields(bytes_, options);
                const std::string outcome = on_both([&](Side& side) { side.members[number]->set_options(options); });
                if (outcome.empty()) setup_.members[number].options = options, is_changed_ = true;
                return outcome;
            }
            case 3: {
                fusedopt::Rule rule = setup_.members[number].rule;
                bytes_.once_in(8) ? void(rule = any_rule(bytes_)) : choose_fields(bytes_, rule);
                const std::string outcome = on_both([&](Side& side) { side.members[number]->set_rule(rule); });
                if (outcome.empty()) setup_.members[number].rule = rule, is_changed_ = true;
                return outcome;
            }
            case 4: {
                fusedopt::Hyperparameter rate = 0.0;
                const std::string made = outcome_of([&] { choose(bytes_, rate); });
                if (!made.empty()) return "";
                is_changed_ = true;
                return on_both([&](Side& side) { side.members[number]->set_learning_rate(rate); });
            }
            case 5:
                return on_both([](Side& side) { side.with([](auto& optimizer) { optimizer.begin_evaluation(); }); });
            case 6:
                return on_both([](Side& side) { side.with([](auto& optimizer) { optimizer.end_evaluation(); }); });
            case 7:
                return on_both([&](Side& side) {
                    side.with([&](auto& optimizer) { optimizer.finalize_variable_values(side.views(built_)); });
                });
            case 8:
                return catch_up();
            case 9:
                return rebind();
            case 10:
                return reload();
            case 11:
                return set_of_wrappers();
            default:
                return step();
        }
    }

    /// Sets all state to what it is, but for one array, which is another or none.
    std::string set_values() {
        const bool is_complete = bytes_.once_in(2);
        const std::size_t changed = bytes_.below(16);
        const Place other = any_place(15);
        return on_both([&](Side& side) {
            side.with([&](auto& optimizer) {
                std::vector<fusedopt::NamedTensor> named = is_complete ? optimizer.state() : optimizer.variables();
                std::vector<Tensor> values;
                for (const fusedopt::NamedTensor& one : named) values.push_back(one.tensor);
                if (changed < values.size()) values[changed] = other.in(side.memory.data());
                is_complete ? optimizer.set_state(values) : optimizer.set_weights(values);
            });
        });
    }

    std::string catch_up() {
        const std::size_t i = bytes_.below(9);
        Place indices = laid_out(bytes_, DType::int64, {static_cast<std::int64_t>(bytes_.below(4))}, 7);
        set_indices(indices, 3);
        indices.is_there = !bytes_.once_in(3);
        return on_both([&](Side& side) {
            side.with([&](auto& optimizer) {
                if (i >= built_.size()) return optimizer.catch_up();
                optimizer.catch_up(built_[i].in(side.memory.data()), indices.in(side.memory.data()));
            });
        });
    }

    /// Moves variables within the memory: to where they are, or to where others may be.
    std::string rebind() {
        std::vector<Place> places = built_;
        if (!places.empty() && bytes_.once_in(2)) {
            Place& moved = places[bytes_.below(places.size())];
            const std::int64_t offset = static_cast<std::int64_t>(bytes_.below(16)) * part;
            const std::int64_t dense = moved.in(sides_[0].memory.data()).size_bytes();
            const auto [low, high] = moved.strides.empty() ? std::array<std::int64_t, 2>{0, dense} : span_of(moved);
            if (offset + low >= 0 && offset + high <= memory_size) moved.offset = offset;
        }
        const std::string outcome =
            on_both([&](Side& side) { side.with([&](auto& optimizer) { optimizer.rebind(side.views(places)); }); });
        if (outcome.empty()) built_ = places;
        return outcome;
    }

    /// The twin goes on as a new optimizer that is given the old one's state.
    std::string reload() {
        Side& side = sides_[1];
        if (setup_.is_multi || setup_.is_scaled || is_changed_ || built_.empty() || side.members[0]->evaluating())
            return "";
        const std::vector<fusedopt::NamedTensor> state = side.members[0]->state();
        const auto norm = side.members[0]->global_norm();
        std::vector<Tensor> values;
        for (const fusedopt::NamedTensor& one : state) values.push_back(one.tensor);
        auto other = std::make_shared<Optimizer>(setup_.members[0].rule, setup_.members[0].options);
        const std::string outcome = outcome_of([&] {
            other->build(side.views(built_), names_);
            other->set_state(values);
            other->set_global_norm(norm);
        });
        if (!outcome.empty()) fail("a new optimizer refuses the state of the old one: " + outcome);
        side.members[0] = other;
        return "";
    }

    std::string set_of_wrappers() {
        const double number = bytes_.number();
        const std::int64_t integer = bytes_.integer();
        std::optional<double> factor, clipnorm;
        choose(bytes_, factor);
        choose(bytes_, clipnorm);
        return on_both([&](Side& side) {
            if (side.multi) {
                side.multi->set_options(factor, clipnorm, integer > 0);
            } else if (side.scaled) {
                integer > 2 ? side.scaled->set_dynamic_growth_steps(integer) : side.scaled->set_dynamic_scale(number);
            }
        });
    }

    Bytes bytes_;
    Setup setup_;
    Side sides_[2];
    std::vector<Place> built_;
    std::vector<std::string> names_;
    bool has_names_ = true;
    bool is_changed_ = false;  // in a way that a new optimizer is not told
    bool is_watched_ = false;  // the next refusal is held against what was there before
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        Session({data, size}).run();
    } catch (const std::invalid_argument&) {
        // A schedule that bytes have chosen refuses its arguments as soon as they are given.
    }
    return 0;
}
