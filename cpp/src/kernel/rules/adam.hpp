// Adam (Kingma & Ba 2015).  m <- m + (g - m)(1 - beta_1);  v <- v + (g^2 - v)(1 - beta_2)
// w <- w - alpha m / (sqrt(v) + epsilon),  alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)
// alpha folds both bias corrections, so epsilon acts on the uncorrected root (end of the paper's section 2).
// AMSGrad (Reddi et al. 2018):  u <- max(u, v) stands in the root; as in Keras, u is not corrected for bias.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct AdamScalars {
    T alpha, one_minus_beta_1, one_minus_beta_2, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct AdamMoments {
    AdamScalars<T> s;

    FUSEDOPT_INLINE void second_moment(T square, T& v) const { v = v + (square - v) * s.one_minus_beta_2; }

    FUSEDOPT_INLINE void second_moment(T square, T& v, T& u) const {
        second_moment(square, v);
        u = maximum(u, v);
    }

    FUSEDOPT_INLINE void move(T& w, T g, T& m, T v) const {
        m = m + (g - m) * s.one_minus_beta_1;
        w = w - (s.alpha * m) / (square_root(v) + s.epsilon);
    }
};

template <class T>
struct Adam : AdamMoments<T> {
    static constexpr int slot_count = 2, row_slot = 1, row_slots = 1;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& v) const {
        this->second_moment(g * g, v);
        this->move(w, g, m, v);
    }
};

template <class T>
struct AdamAmsgrad : AdamMoments<T> {
    static constexpr int slot_count = 3, row_slot = 1, row_slots = 2;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& v, T& u) const {
        this->second_moment(g * g, v, u);
        this->move(w, g, m, u);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
