/* chance.c - numbers by chance that are the same each time: splitmix64 of what each is for. */
#include "chance.h"

#include <math.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double mg_chance(uint64_t seed, uint32_t what, uint32_t number)
{
    uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15u * (what + 1)) + 0x9e3779b97f4a7c15u * number);

    return (double)(bits >> 11) * 0x1p-53;
}

/* Box and Muller. */
static double normal(double u, double v)
{
    return sqrt(-2 * log1p(-u)) * cos(2 * M_PI * v);
}

double mg_law_draw(const mg_law *l, double u, double v)
{
    switch ((enum mg_law_kind)l->kind) {
    case MG_LAW_CONSTANT:
        return l->mean;
    case MG_LAW_EXPONENTIAL:
        return -l->mean * log1p(-u);
    case MG_LAW_LOGNORMAL:
        return l->mean * exp(l->shape * normal(u, v) - l->shape * l->shape / 2);
    case MG_LAW_PARETO:
        return l->mean * (l->shape - 1) / l->shape * pow(1 - u, -1 / l->shape);
    case MG_LAW_BIMODAL:
        return u < l->share ? l->shape : l->mean;
    case MG_LAW_SAMPLES:
        return l->samples[(uint32_t)(u * l->sample_count)];
    }
    return l->mean;
}
