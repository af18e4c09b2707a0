// fusedopt: gradient-descent optimizers that run in place, in one fused sweep, on memory somebody else owns.
// This header is the whole public C++ API.
#pragma once

#include <fusedopt/language.hpp>

#include <fusedopt/excluding.hpp>
#include <fusedopt/fields.hpp>
#include <fusedopt/gradients.hpp>
#include <fusedopt/hosted.hpp>
#include <fusedopt/loss_scale_optimizer.hpp>
#include <fusedopt/multi_optimizer.hpp>
#include <fusedopt/optimizer.hpp>
#include <fusedopt/own_rule.hpp>
#include <fusedopt/rules.hpp>
#include <fusedopt/runtime.hpp>
#include <fusedopt/schedules.hpp>
#include <fusedopt/sharding.hpp>
#include <fusedopt/tensor.hpp>
