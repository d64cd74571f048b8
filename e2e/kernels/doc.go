// Package kernels contains only the tests that hold the program to what the running kernel offers: its start lines, its
// refusals, requests, the attack suite and the start window. They set kernel settings, so that they run in virtual
// machines only, which scripts/try-kernels.sh starts.
package kernels
