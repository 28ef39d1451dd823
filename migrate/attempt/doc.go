// Package attempt names one try to move one sandbox from one host to another.
//
// It owns the identity of an attempt (ID, 128 random bits), the position of an attempt in a sandbox's history
// (Epoch), and the words for how it stands at its target (Standing). Every attempt has an ID of its own and burns an
// epoch, whatever becomes of it, so that a message that arrives late can never meet another attempt.
//
// It does not decide anything: who may run at which epoch is the business of package journal.
package attempt
