// Package convergence decides, after each round of pre-copy, what comes next: another round, the stop, a step of
// throttling, or giving up in the way that the operator asked for.
//
// Data in: what was measured (Measurements) and what is allowed (Budget). Data out: a Decision with its reason. Next is a
// pure function: it has no clock and no memory, so a recorded migration can be decided again.
//
// # How it decides
//
//	predicted downtime = what the stop costs apart from pages + remaining pages / link rate
//
//	predicted ≤ MaxDowntime   stop, unless another round shortens the stop by a tenth and by 5 ms at least
//	time or rounds are up     what OnTimeout says
//	no progress in k rounds   throttle one step more; at the last step, what OnTimeout says
//	otherwise                 another round
//
// # Invariants
//
// Whatever is measured, nonsense included, the rounds end: by the stop, by Timeout, or by MaxRounds. A sandbox is stopped
// beyond MaxDowntime only where OnTimeout is Stop. A rate that is no positive finite number is not known, and
// nothing is concluded from it in favour of a stop.
package convergence
