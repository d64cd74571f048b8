package usage

import (
	"fmt"
	"strings"
	"testing"
)

// checkID reads a body as a whole, byte by byte, and split at every position. A known ID never changes.
func checkID(t *testing.T, contentType, body, want string) {
	t.Helper()
	for i := range len(body) + 1 {
		m := New(Responses, []byte(contentType), nil)
		m.Write([]byte(body[:i]))
		early := string(m.ID())
		m.Write([]byte(body[i:]))
		if got := string(m.ID()); got != want || early != "" && early != want {
			t.Fatalf("split at %d: %q, then %q, want %q\n%s", i, early, got, want, body)
		}
	}
	if got := string(meter(contentType, body, 1).ID()); got != want {
		t.Fatalf("in single bytes: %q, want %q\n%s", got, want, body)
	}
}

func TestIDInJSON(t *testing.T) {
	long := strings.Repeat("r", maxID)
	for _, c := range []struct{ name, body, id string }{
		{"plain", `{"id":"resp_1","model":"gpt-5"}`, "resp_1"},
		{"last", `{"output":[{"id":"msg_1"}],"id":"resp_1"}`, "resp_1"},
		{"spread out", "{ \"id\" :\n\"resp_1\" }", "resp_1"},
		{"escaped key", `{"\u0069d":"resp_1"}`, "resp_1"},
		{"twice: the first counts", `{"id":"resp_1","id":"resp_2"}`, "resp_1"},
		{"twice, and the first is no text", `{"id":1,"id":"resp_2"}`, "resp_2"},
		{"as long as may be", `{"id":"` + long + `"}`, long},
		{"the answer is cut behind it", `{"id":"resp_1","output":[`, "resp_1"},

		{"longer", `{"id":"` + long + `r"}`, ""},
		{"none", `{"model":"gpt-5"}`, ""},
		{"empty", `{"id":""}`, ""},
		{"null", `{"id":null}`, ""},
		{"an object", `{"id":{"id":"no"}}`, ""},
		{"a list", `{"id":["no"]}`, ""},
		{"cut in it", `{"id":"resp_`, ""},
		{"with an escape", `{"id":"resp\u005f1"}`, ""},
		{"with a control character", "{\"id\":\"a\nb\"}", ""},
		{"in output", `{"output":[{"id":"no"}]}`, ""},
		{"in metadata", `{"metadata":{"id":"no"}}`, ""},
		{"in usage", `{"usage":{"id":"no"}}`, ""},
		{"in text", `{"output":"\",\"id\":\"no\",\"a\":\""}`, ""},
		{"at a stream's path", `{"response":{"id":"no"}}`, ""},
		{"in a second document", `{}{"id":"no"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) { checkID(t, jsonType, c.body, c.id) })
	}
}

func responseEvent(kind, response string) string {
	return fmt.Sprintf("event: %s\ndata: {\"type\":%q,\"sequence_number\":0,\"response\":%s}\n\n", kind, kind, response)
}

func TestIDInStream(t *testing.T) {
	first := responseEvent("response.created", `{"id":"resp_1","output":[{"id":"no"}]}`)
	for _, c := range []struct{ name, body, id string }{
		{"response.created", first, "resp_1"},
		{"cut behind it", `data: {"type":"response.created","response":{"id":"resp_1","mo`, "resp_1"},
		{"the type stands last", `data: {"response":{"id":"resp_1"},"type":"response.created"}` + "\n\n", "resp_1"},
		{"only the closing event has one", responseEvent("response.completed", `{"id":"resp_1"}`), "resp_1"},
		{"the first counts", first + responseEvent("response.completed", `{"id":"resp_2"}`), "resp_1"},
		{"also of two that begin", first + responseEvent("response.created", `{"id":"resp_2"}`), "resp_1"},
		{"the first has none", responseEvent("response.created", `{}`) + responseEvent("response.failed", `{"id":"resp_2"}`), "resp_2"},

		{"in an event of another type", responseEvent("response.x", `{"id":"no"}`), ""},
		{"of another type, and the type last", `data: {"response":{"id":"no"},"type":"x"}` + "\n\n", ""},
		{"in an event without a type", `data: {"response":{"id":"no"}}` + "\n\n", ""},
		{"before a cut that hides the type", `data: {"response":{"id":"no"}`, ""},
		{"of another type, then none in the first", `data: {"response":{"id":"no"},"type":"x"}` + "\n\n" + responseEvent("response.created", `{}`), ""},
		{"beside the response", `data: {"type":"response.created","id":"no","response":{}}` + "\n\n", ""},
		{"in an item", responseEvent("response.created", `{"output":[{"id":"no"}],"metadata":{"id":"no"}}`), ""},
		{"in text", `data: {"type":"response.output_text.delta","delta":"\n\n` + strings.ReplaceAll(strings.TrimSpace(first), `"`, `\"`) + "\"}\n\n", ""},
		{"in a comment", ": " + strings.ReplaceAll(first, "\n", " ") + "\n\n", ""},
		{"in two lines", "data: {\"type\":\"response.created\",\"response\":{\"id\":\"a\ndata: b\"}}\n\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) { checkID(t, sseType, c.body, c.id) })
	}
	// An event that begins a response costs nothing, whatever it contains.
	m := meter(sseType, responseEvent("response.created", `{"id":"resp_1","model":"no","usage":{"input_tokens":5,"output_tokens":5}}`), 0)
	if got := read(m); got != (details{}) {
		t.Errorf("an opening event counts for %+v", got)
	}
}

// FuzzID puts hostile text wherever a model or a client can place text in a response. It must neither become the ID nor
// hide it.
func FuzzID(f *testing.F) {
	for _, s := range []string{
		"", `"`, `\`, `","id":"no","a":"`, "id", "response", "type", "response.created", "resp_no", `}}}]]`, "{[{",
		"\n\ndata: " + `{"type":"response.created","response":{"id":"no"}}` + "\n\n", strings.Repeat("a\\\"", 80),
	} {
		f.Add(s, s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, text, key string, piece uint8) {
		response := strings.Replace(hostile(t, text, key, 1, 1), `{"id":`, `{"id":"resp_real","previous_response_id":`, 1)
		stream := event(t, "response.output_text.delta", "delta", text) + event(t, key, "item", map[string]any{"id": "no", key: text}) +
			responseEvent("response.created", response) + event(t, "response.output_item.done", "item", map[string]any{"id": "no", key: text})
		if key == "response.created" || key == "response" { // the upstream determines types and names
			return
		}
		for contentType, body := range map[string]string{jsonType: response, sseType: stream} {
			for _, size := range []int{0, 1, int(piece)} {
				if got := string(meter(contentType, body, size).ID()); got != "resp_real" {
					t.Fatalf("%s in pieces of %d: %q\n%s", contentType, size, got, body)
				}
			}
		}
	})
}

// FuzzIDInPieces: the ID does not depend on how a body is split, is within its limits, and occurs in the body.
func FuzzIDInPieces(f *testing.F) {
	f.Add(`{"id":"resp_1"}`, uint8(3))
	f.Add(responseEvent("response.created", `{"id":"resp_1"}`), uint8(7))
	f.Fuzz(func(t *testing.T, body string, piece uint8) {
		for _, contentType := range []string{jsonType, sseType} {
			id := string(meter(contentType, body, 0).ID())
			if len(id) > maxID || !strings.Contains(body, `"`+id+`"`) && id != "" {
				t.Fatalf("%q is no id of %q", id, body)
			}
			for _, size := range []int{1, int(piece)} {
				if got := string(meter(contentType, body, size).ID()); got != id {
					t.Fatalf("whole %q, in pieces of %d %q", id, size, got)
				}
			}
		}
	})
}
