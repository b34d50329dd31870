/* The pool, seen from outside, for spin: what it may do, written without a look at how it does it.

   A trace is fed to it line by line; each line is an input and the commands it led to, and ends with STEP.
   It refuses a trace by an assertion that fails. tests/explore/promela.py writes what feeds it, below. */

#define CONNECTIONS 64
#define LANES 4
#define LANE(c, n) ((c) * LANES + (n))
#define MANY 64

mtype = { NEW, ACQUIRE, NOWAIT, ABANDON, CONNECTED, FAILED, LOST, GONE, BEGIN, FINISHED, RELEASE, RETIRE, WIDEN,
          NARROW, CLOSE, DIAL, HANGUP, GRANT, REFUSE, EXPIRING, TAKEN, STEP, END };
mtype = { none, dialing, open, retiring, closing };

chan feed = [0] of { mtype, byte, byte, byte, byte };
chan line = [MANY] of { byte };            /* who waits, the first in front */

mtype connection[CONNECTIONS];
byte holder[CONNECTIONS * LANES];          /* the lease of a lane, 0 if it is nobody's */
bool flight[CONNECTIONS * LANES];          /* a turn, or the rest of one, is on it */
byte lane_of[MANY];                        /* of a lease */
bool alive[MANY];                          /* of a lease */
byte most, each, live, dials, last_connection, last_lease, asked, owed;
bool closed, wide, failed;
short i;
byte who;

inline clear(c) {                          /* nothing of connection c is anybody's any more */
    i = 0;
    do
    :: i < LANES ->
        if :: holder[LANE(c, i)] -> alive[holder[LANE(c, i)]] = false :: else fi;
        holder[LANE(c, i)] = 0; flight[LANE(c, i)] = false; i++
    :: else -> break
    od
}

inline free_lane_or_room() {               /* somebody waits: then there must be nothing to be had */
    i = 1;
    do
    :: i <= last_connection ->
        assert(!(connection[i] == open && !holder[LANE(i, 0)] && !flight[LANE(i, 0)]));
        if
        :: wide && each > 1 && connection[i] == open -> assert(holder[LANE(i, 1)] || flight[LANE(i, 1)])
        :: else
        fi;
        i++
    :: else -> break
    od;
    assert(live >= most || dials > 0 || failed)
}

proctype pool() {
    byte a, b, c, n;
    do
    :: feed ? NEW(a, b, _, _) -> d_step {
        most = a; each = b; live = 0; dials = 0; last_connection = 0; last_lease = 0; asked = 0; owed = 0;
        closed = false; wide = false; failed = false;
        i = 0; do :: i < CONNECTIONS -> connection[i] = none; i++ :: else -> break od;
        i = 0; do :: i < CONNECTIONS * LANES -> holder[i] = 0; flight[i] = false; i++ :: else -> break od;
        i = 0; do :: i < MANY -> alive[i] = false; i++ :: else -> break od;
        do :: len(line) > 0 -> line ? who :: else -> break od }
    :: feed ? ACQUIRE(a, _, _, _) -> line ! a
    :: feed ? NOWAIT(a, _, _, _) -> line ! a; asked = a
    :: feed ? ABANDON(a, _, _, _) -> assert(line ?? [eval(a)]); line ?? eval(a)
    :: feed ? REFUSE(a, _, _, _) -> assert(line ?? [eval(a)]); line ?? eval(a)
    :: feed ? GRANT(a, b, c, n) -> d_step {
        assert(!closed);
        assert(len(line) > 0);
        if                                 /* who is refused at once if there is nothing, overtakes nobody */
        :: line ? [eval(a)] -> line ? who
        :: else -> assert(false)
        fi;
        assert(connection[c] == open || connection[c] == retiring);
        if :: connection[c] == retiring -> owed = b :: else fi;   /* to be told, in the same step */
        assert(n < each && (n == 0 || wide));
        assert(holder[LANE(c, n)] == 0 && !flight[LANE(c, n)]);
        assert(b > last_lease); last_lease = b;
        holder[LANE(c, n)] = b; lane_of[b] = LANE(c, n); alive[b] = true }
    :: feed ? DIAL(a, _, _, _) -> d_step {
        assert(!closed && a > last_connection && connection[a] == none && live < most);
        last_connection = a; connection[a] = dialing; live++; dials++; failed = false }
    :: feed ? CONNECTED(a, _, _, _) -> d_step {
        assert(connection[a] == dialing); connection[a] = open; dials--; failed = false }
    :: feed ? FAILED(a, _, _, _) -> d_step {
        assert(connection[a] == dialing); connection[a] = none; dials--; live--; failed = true }
    :: feed ? LOST(a, _, _, _) -> d_step {
        assert(connection[a] == open || connection[a] == retiring);
        clear(a); connection[a] = none; live--; failed = true }
    :: feed ? HANGUP(a, _, _, _) -> d_step {
        assert(connection[a] == dialing || connection[a] == open || connection[a] == retiring);
        if :: connection[a] == dialing -> dials-- :: else fi;
        clear(a); connection[a] = closing; live-- }
    :: feed ? GONE(a, _, _, _) -> assert(connection[a] == closing); connection[a] = none
    :: feed ? BEGIN(a, _, _, _) -> d_step {
        assert(alive[a] && !flight[lane_of[a]]); flight[lane_of[a]] = true }
    :: feed ? FINISHED(a, b, _, _) -> d_step {
        assert(connection[a] == open || connection[a] == retiring);
        assert(flight[LANE(a, b)]); flight[LANE(a, b)] = false }
    :: feed ? RELEASE(a, _, _, _) -> d_step {
        if :: alive[a] -> holder[lane_of[a]] = 0; alive[a] = false :: else fi }
    :: feed ? TAKEN(a, _, _, _) -> d_step {
        assert(alive[a] && !flight[lane_of[a]]); holder[lane_of[a]] = 0; alive[a] = false }
    :: feed ? EXPIRING(a, _, _, _) -> d_step {
        assert(alive[a]); connection[lane_of[a] / LANES] = retiring;
        if :: owed == a -> owed = 0 :: else fi }
    :: feed ? RETIRE(a, _, _, _) -> d_step {
        if :: connection[a] == open -> connection[a] = retiring :: else fi }
    :: feed ? WIDEN(_, _, _, _) -> wide = true
    :: feed ? NARROW(_, _, _, _) -> wide = false
    :: feed ? CLOSE(_, _, _, _) -> closed = true
    :: feed ? STEP(_, _, _, _) -> d_step {
        if
        :: asked && line ?? [eval(asked)] -> line ?? eval(asked)
        :: else
        fi;
        asked = 0;
        assert(owed == 0);
        assert(!(closed && len(line) > 0));
        if :: len(line) > 0 -> free_lane_or_room() :: else fi }
    :: feed ? END(_, _, _, _) -> printf("all accepted\n"); break
    od
}
