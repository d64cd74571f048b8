package secret

import "testing"

func TestParseHeader(t *testing.T) {
	for _, h := range []Header{Bearer, APIKey, XAPIKey} {
		if got, err := ParseHeader(headers[h]); got != h || err != nil {
			t.Errorf("%d: %d, %v", h, got, err)
		}
	}
	for _, name := range []string{"", "Bearer", "api-key ", "API-KEY", "authorization", "x-api-key: "} {
		if h, err := ParseHeader(name); err == nil {
			t.Errorf("%q was taken for %d", name, h)
		}
	}
}
