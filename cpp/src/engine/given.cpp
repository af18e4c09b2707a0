// Taking what build is given: recognises built variables by their memory, refuses what cannot be updated in place.
#include "engine/given.hpp"

#include <algorithm>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

#include "engine/bounds.hpp"

namespace fusedopt {
namespace {

void check_variable(const Tensor& tensor, const std::string& who) {
    if (!tensor) throw std::invalid_argument(who + ": expected an array, found none");
    if (!is_floating(tensor.dtype())) {
        throw std::invalid_argument(who + ": expected float16, bfloat16, float32 or float64, found " +
                                    std::string(to_string(tensor.dtype())));
    }
    if (!tensor.is_writable()) {
        throw std::invalid_argument(who + ": expected writable memory, found a read-only array; " +
                                    for_a_variable("pass a writable copy"));
    }
    if (!tensor.is_contiguous()) {
        throw std::invalid_argument(who + ": expected C-contiguous memory, found a strided array of shape " +
                                    to_string(tensor.shape()) + "; " +
                                    for_a_variable("pass numpy.ascontiguousarray(...) of it"));
    }
    if (!tensor.is_aligned()) {
        throw std::invalid_argument(who + ": expected memory aligned to its element size (" +
                                    std::to_string(item_size(tensor.dtype())) + " bytes), found a misaligned array; " +
                                    for_a_variable("pass a copy"));
    }
}

bool is_like(const Tensor& a, const Tensor& b) {
    return a.dtype() == b.dtype() && std::ranges::equal(a.shape(), b.shape());
}

std::string layout_of(const Tensor& tensor) {
    return std::string(to_string(tensor.dtype())) + " of shape " + to_string(tensor.shape());
}

/// Finds built variables by their memory, each once. Empty ones may all lie at one address. Then the name decides, or
/// their order if they have no name.
class Finder {
public:
    explicit Finder(std::span<const Variable* const> built) : built_(built), is_found_(built.size()) {
        for (std::size_t i = 0; i < built.size(); ++i) {
            const Tensor& tensor = built[i]->tensor;
            if (tensor.size() == 0) {
                empty_.push_back(i);
            } else {
                by_address_.emplace(tensor.data(), i);
            }
        }
    }

    std::size_t find(const Tensor& tensor, const std::string* name) {
        const std::size_t index = tensor.size() == 0 ? find_empty(tensor, name) : find_by_address(tensor);
        if (index != unknown) is_found_[index] = true;
        return index;
    }

    /// The first one that has not been found.
    std::size_t first_missing() const {
        const auto missing = std::ranges::find(is_found_, false);
        return missing == is_found_.end() ? unknown : static_cast<std::size_t>(missing - is_found_.begin());
    }

private:
    std::size_t find_by_address(const Tensor& tensor) const {
        const auto found = by_address_.find(tensor.data());
        if (found == by_address_.end() || is_found_[found->second] ||
            built_[found->second]->tensor.size_bytes() != tensor.size_bytes()) {
            return unknown;
        }
        return found->second;
    }

    std::size_t find_empty(const Tensor& tensor, const std::string* name) const {
        std::size_t first = unknown;
        for (const std::size_t i : empty_) {
            if (is_found_[i] || built_[i]->tensor.data() != tensor.data() || !is_like(built_[i]->tensor, tensor))
                continue;
            if (!name || !built_[i]->is_named || built_[i]->name == *name) return i;
            if (first == unknown) first = i;
        }
        return first;
    }

    std::span<const Variable* const> built_;
    std::vector<bool> is_found_;
    std::unordered_map<const void*, std::size_t> by_address_;
    std::vector<std::size_t> empty_;
};

Name name_of(std::size_t i, const Variable* built, std::span<const std::string> names) {
    const bool keeps = built && built->is_named;
    if (names.empty()) return keeps ? Name{built->name, true} : Name{std::to_string(i), false};
    if (keeps && built->name != names[i]) {
        throw std::invalid_argument(who_is(i, names[i]) + ": expected the name '" + built->name +
                                    "', which it was built with, found another; give it that name, or make a new "
                                    "optimizer");
    }
    return {names[i], true};
}

// Only a variable without a name, built together with variables that have names, can get the name of one of them.
void require_unique_positions(const std::vector<Name>& names) {
    std::unordered_set<std::string> given;
    for (const Name& name : names) {
        if (name.is_given) given.insert(name.text);
    }
    for (std::size_t i = 0; i < names.size() && !given.empty(); ++i) {
        if (!names[i].is_given && given.contains(names[i].text)) {
            throw std::invalid_argument("variable " + std::to_string(i) +
                                        ": expected a name, as another variable was built with the name '" +
                                        names[i].text + "', found none");
        }
    }
}

}  // namespace

std::string who_is(std::size_t index, const std::string& name) {
    return "variable " + std::to_string(index) + (name == std::to_string(index) ? "" : " ('" + name + "')");
}

std::string for_a_variable(const std::string& advice) {
    return advice + ", and use that array in the model, too";
}

std::string to_string(std::span<const std::int64_t> shape) {
    std::string text = "(";
    for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

bool Given::is_same(std::span<const Variable* const> variables) const {
    if (tensors.size() != variables.size()) return false;
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const bool is_same_name = names[i].text == variables[i]->name && names[i].is_given == variables[i]->is_named;
        if (built[i] != i || !is_same_name) return false;
    }
    return true;
}

Given recognize(std::span<const Tensor> tensors, std::span<const std::string> names,
                std::span<const Variable* const> built, bool is_built) {
    if (!names.empty() && names.size() != tensors.size()) {
        throw std::invalid_argument("build: expected a name for each of " + std::to_string(tensors.size()) +
                                    " variables, found " + std::to_string(names.size()));
    }
    Given given;
    given.tensors.assign(tensors.begin(), tensors.end());
    Finder finder(built);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::string* const name = names.empty() ? nullptr : &names[i];
        check_variable(tensors[i], who_is(i, name ? *name : std::to_string(i)));
        given.built.push_back(finder.find(tensors[i], name));
    }
    if (const std::size_t missing = finder.first_missing(); is_built && missing != unknown) {
        throw std::invalid_argument(
            "build: the optimizer is built already, on " + std::to_string(built.size()) +
            " variables; expected all of them, and new ones if you like, found " +
            who_is(missing, built[missing]->name) +
            " missing; give it too (a variable whose gradient is None stands still), or make a new optimizer");
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Variable* const old = given.built[i] == unknown ? nullptr : built[given.built[i]];
        given.names.push_back(name_of(i, old, names));
        if (old && !is_like(old->tensor, tensors[i])) {
            throw std::invalid_argument(who_is(i, given.names[i].text) + ": expected " + layout_of(old->tensor) +
                                        ", as it was built, found its memory as " + layout_of(tensors[i]));
        }
    }
    require_unique_positions(given.names);
    static_cast<void>(sorted_ranges(given));
    return given;
}

Given relocated(std::span<const Tensor> tensors, std::span<const Variable* const> built) {
    if (tensors.size() != built.size()) {
        throw std::invalid_argument("rebind: expected " + std::to_string(built.size()) + " variables, found " +
                                    std::to_string(tensors.size()));
    }
    Given given;
    given.tensors.assign(tensors.begin(), tensors.end());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::string who = who_is(i, built[i]->name);
        if (tensors[i] && !is_like(built[i]->tensor, tensors[i])) {
            throw std::invalid_argument(who + ": expected " + layout_of(built[i]->tensor) +
                                        ", as it was built, found its memory moved and now " + layout_of(tensors[i]) +
                                        "; make a new optimizer");
        }
        check_variable(tensors[i], who);
        given.names.push_back({built[i]->name, built[i]->is_named});
        given.built.push_back(tensors[i].data() == built[i]->tensor.data() ? i : unknown);
    }
    static_cast<void>(sorted_ranges(given));
    return given;
}

void require_variables(const char* function, std::span<const Tensor> tensors, std::span<const Variable* const> built) {
    if (tensors.size() != built.size()) {
        throw std::invalid_argument(std::string(function) + ": expected " + std::to_string(built.size()) +
                                    " variables, found " + std::to_string(tensors.size()));
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor& own = built[i]->tensor;
        const bool is_own = tensors[i] && tensors[i].is_contiguous() && tensors[i].data() == own.data() &&
                            tensors[i].size_bytes() == own.size_bytes();
        if (own.size() == 0 || is_own) continue;
        throw std::invalid_argument(std::string(function) +
                                    ": expected the built variables in their order, found another array in the place "
                                    "of " +
                                    who_is(i, built[i]->name));
    }
}

std::vector<Range> sorted_ranges(const Given& given) {
    std::vector<Range> ranges;
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        const Tensor& tensor = given.tensors[i];
        const auto* begin = static_cast<const std::byte*>(tensor.data());
        if (tensor.size() > 0) ranges.push_back({begin, begin + tensor.size_bytes(), i});
    }
    std::ranges::sort(ranges, {}, &Range::begin);
    for (std::size_t k = 1; k < ranges.size(); ++k) {
        if (ranges[k].begin < ranges[k - 1].end) {
            const auto [first, second] = std::minmax(ranges[k - 1].index, ranges[k].index);
            throw std::invalid_argument(who_is(second, given.names[second].text) +
                                        ": expected memory of its own, found it overlapping " +
                                        who_is(first, given.names[first].text));
        }
    }
    return ranges;
}

std::size_t overlapped_by(const Tensor& gradient, std::span<const Range> ranges) {
    if (gradient.size() == 0) return unknown;
    const Bounds bounds = bounds_of(gradient);
    // The first range that ends after the gradient begins; ranges do not overlap, so ends are sorted too.
    for (auto range = std::ranges::upper_bound(ranges, bounds.low, {}, &Range::end);
         range != ranges.end() && range->begin < bounds.high; ++range) {
        if (gradient.touches(range->begin, range->end)) return range->index;
    }
    return unknown;
}

}  // namespace fusedopt
