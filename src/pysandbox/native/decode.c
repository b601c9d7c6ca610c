/* decode.c: a plan as bytes, checked.
 *
 * A plan is a count, then fixed-size steps, then the data their strings point into.  It comes from the application, which
 * is trusted, and is checked all the same: a mistake there must end in an error with the step's index, never in a wild
 * read.
 *
 * May call: sys.h's pb_strlen.  Owns: nothing.
 */
#include "steps.h"

#include "sys.h"

#define MAX_ERRNO 4095

static const char *const verb_names[] = {
#define PB_NAME(name, kinds) #name,
    PB_VERBS(PB_NAME)
#undef PB_NAME
};

static const char *const verb_kinds[] = {
#define PB_KINDS(name, kinds) kinds,
    PB_VERBS(PB_KINDS)
#undef PB_KINDS
};

const char *pb_verb_name(int verb) { return verb >= 0 && verb < PB_VERB_COUNT ? verb_names[verb] : 0; }
const char *pb_verb_kinds(int verb) { return verb >= 0 && verb < PB_VERB_COUNT ? verb_kinds[verb] : 0; }

static bool span_is_inside(const struct pb_plan *plan, uint64_t arg)
{
    return (uint64_t)pb_offset(arg) + pb_length(arg) <= plan->data_size;
}

static bool argument_is_valid(const struct pb_plan *plan, char kind, uint64_t arg)
{
    const char *text = plan->data + pb_offset(arg);
    uint32_t length = pb_length(arg);
    switch (kind) {
    case 's': /* one string: its length counts the final NUL, and there is no other */
        return span_is_inside(plan, arg) && length > 0 && text[length - 1] == 0 && pb_strlen(text) == length - 1;
    case 'l': /* strings one after the other */
        return span_is_inside(plan, arg) && (length == 0 || text[length - 1] == 0);
    case 'b':
        return span_is_inside(plan, arg);
    case 'f':
        return arg < plan->nfds;
    default:
        return true;
    }
}

int pb_decode(const void *bytes, size_t size, const int *fds, uint32_t nfds, struct pb_plan *plan, uint32_t *bad)
{
    const uint64_t *count = bytes;
    *bad = 0;
    if ((uintptr_t)bytes % sizeof(uint64_t) || size < sizeof *count || size > UINT32_MAX)
        return EINVAL;
    if (*count > PB_MAX_STEPS || sizeof *count + *count * sizeof(struct pb_step) > size)
        return EINVAL;
    plan->steps = (const struct pb_step *)(count + 1);
    plan->count = (uint32_t)*count;
    plan->data = (const char *)(plan->steps + plan->count);
    plan->data_size = (uint32_t)(size - sizeof *count - plan->count * sizeof(struct pb_step));
    plan->fds = fds;
    plan->nfds = nfds;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct pb_step *step = &plan->steps[i];
        *bad = i;
        if (step->verb >= PB_VERB_COUNT || step->reserved || step->fault > MAX_ERRNO)
            return EINVAL;
        const char *kinds = verb_kinds[step->verb];
        for (int a = 0; kinds[a]; a++)
            if (!argument_is_valid(plan, kinds[a], step->arg[a]))
                return EINVAL;
    }
    return 0;
}
