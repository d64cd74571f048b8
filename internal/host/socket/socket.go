// Package socket reads from and writes to connections without waking the Go runtime's monitor thread.
//
// The scheduler follows each system call of package net, as it might block, and wakes the monitor thread (sysmon) for
// that. In a proxy, which waits between any two of its calls, this costs a tenth of the CPU time. The calls of this
// package are made without the scheduler's knowledge. They rest on what package syscall documents of RawConn, and on
// sockets being non-blocking.
//
// One goroutine may call Read while another calls Write.
package socket
