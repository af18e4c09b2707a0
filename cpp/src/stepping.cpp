#include "stepping.hpp"

#include "float_environment.hpp"

namespace fusedopt {
namespace {

// A learning rate or beta that is a function could call apply on the optimizer it serves.
class SteppingFlags {
public:
    explicit SteppingFlags(std::span<const Share> shares) : shares_(shares) {
        for (const Share& share : shares_) share.state->require_not_stepping("apply");
        for (const Share& share : shares_) share.state->is_stepping = true;
    }
    ~SteppingFlags() {
        for (const Share& share : shares_) share.state->is_stepping = false;
    }
    SteppingFlags(const SteppingFlags&) = delete;
    SteppingFlags& operator=(const SteppingFlags&) = delete;

private:
    std::span<const Share> shares_;
};

}  // namespace

double reciprocal(double scale) {
    return compute_in(Subnormals::flushed, scale, [](double x) { return 1.0 / x; });
}

float nearest_float(double value) {
    const auto nearest = [](double x) { return static_cast<double>(static_cast<float>(x)); };
    return static_cast<float>(compute_in(Subnormals::flushed, value, nearest));
}

bool step_together(std::span<const Share> shares) {
    const SteppingFlags flags(shares);
    for (const Share& share : shares) share.state->check(share.gradients, share.tensors);
    bool is_finite = true;
    for (const Share& share : shares) is_finite = share.state->measure(share.scaling) && is_finite;
    if (!is_finite) return false;
    for (const Share& share : shares) share.state->evaluate(share.scaling);
    for (const Share& share : shares) share.state->commit();
    return true;
}

}  // namespace fusedopt
