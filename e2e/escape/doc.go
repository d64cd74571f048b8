// Package escape holds no code but the tests of the promise about whoever
// takes the process over: what it runs inside the real program gets nowhere, and
// the program goes on serving. They play that attacker from outside: as root,
// they stop a thread of the program by ptrace and have it make the system calls
// of their choice.
//
// What lies in reach of such an attacker all the same is no part of it: the
// connections that are open, and what an open file descriptor takes.
package escape
