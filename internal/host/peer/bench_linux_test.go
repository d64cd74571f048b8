package peer

import "testing"

// BenchmarkOwner measures the look-up that each connection costs.
func BenchmarkOwner(b *testing.B) {
	tcp, accepted, _ := pair(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tcp.Owner(accepted); err != nil {
			b.Fatal(err)
		}
	}
}
