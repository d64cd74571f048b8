// Package escape contains only the tests of the promise about an attacker who takes the process over: code that runs
// inside the real program gains nothing, and the program goes on serving. They act as that attacker from outside: as
// root, they stop a thread of the program by ptrace and make it execute system calls.
//
// Such an attacker's remaining reach is not tested: the connections that are open, and the operations on open file
// descriptors.
package escape
