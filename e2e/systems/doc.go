// Package systems contains only the tests that hold the program to what other systems and architectures offer. On this
// machine they run it under wine, or in QEMU's user emulation: scripts/try-wine.sh and scripts/try-systems.sh.
package systems
