package http1

import (
	"net/http"
	"testing"
)

func TestStatusTextIsNetHTTPs(t *testing.T) {
	for code := range 1000 {
		if got, want := StatusText(code), http.StatusText(code); got != want {
			t.Errorf("%d: %q, want %q", code, got, want)
		}
	}
}
