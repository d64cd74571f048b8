package secret

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// spellings are the forms in which fmt and encoding/json could print a part of key.
func spellings(key string) []string {
	part := []byte(key[:16])
	bare := func(format string) string { return strings.Trim(fmt.Sprintf(format, part), "[]{}") }
	all := []string{
		key[:16],
		fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), fmt.Sprintf("% x", part), fmt.Sprintf("% X", part), fmt.Sprintf("%#x", part)[2:],
		bare("%d"), bare("%o"), bare("%b"), bare("%c"), bare("%U"),
		strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}"),
	}
	for shift := range 3 { // base64 differs at each offset
		text := base64.StdEncoding.EncodeToString([]byte(prefix[:shift] + key))
		all = append(all, text[4:20])
	}
	return all
}

// values returns a key, a slot that contains the key, and their region, in every form in which they could be printed.
// Reflection copies them, because vet refuses such copies in code.
func values(t *testing.T, k *Key, s *Slot) map[string]any {
	t.Helper()
	all := map[string]any{}
	for name, v := range map[string]any{"Key": k, "Slot": s, "Buffer": k.memory} {
		pointer := reflect.ValueOf(v)
		pointers := reflect.MakeSlice(reflect.SliceOf(pointer.Type()), 1, 1)
		pointers.Index(0).Set(pointer)
		copies := reflect.MakeSlice(reflect.SliceOf(pointer.Elem().Type()), 1, 1)
		copies.Index(0).Set(pointer.Elem())
		toPointer := reflect.New(pointer.Type())
		toPointer.Elem().Set(pointer)
		byName := reflect.MakeMap(reflect.MapOf(reflect.TypeFor[string](), pointer.Elem().Type()))
		byName.SetMapIndex(reflect.ValueOf("key"), pointer.Elem())

		all["*"+name] = v
		all["**"+name] = toPointer.Interface()
		all["[]*"+name] = pointers.Interface()
		all[name] = pointer.Elem().Interface()
		all["[]"+name] = copies.Interface()
		all["map of "+name] = byName.Interface()
		all["map of *"+name] = map[string]any{"key": v}
		all["struct with *"+name] = struct{ V any }{v}
		all["pointer to a struct with *"+name] = &struct{ V any }{v}
		all["struct with "+name] = struct{ V any }{pointer.Elem().Interface()}
		all["hidden *"+name] = struct{ v any }{v}
		all["hidden "+name] = struct{ v any }{pointer.Elem().Interface()}
		all["pointer to a struct with hidden "+name] = &struct{ v any }{pointer.Elem().Interface()}
		all["hidden []"+name] = struct{ v any }{copies.Interface()}
	}
	return all
}

func TestPrintsNoKey(t *testing.T) {
	key := randomKey()
	k := newKey(t, key)
	s, err := k.Slot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	if err := k.Line(func(line []byte) error { used = copy(s.Bytes(), line); return nil }); err != nil {
		t.Fatal(err)
	}
	defer s.Release(used)
	forms := spellings(key)
	for name, v := range values(t, k, s) {
		t.Run(name, func(t *testing.T) {
			for how, out := range prints(v) {
				for _, form := range forms {
					if strings.Contains(out, form) {
						t.Errorf("%s prints the key as %.30q...", how, form)
					}
				}
			}
		})
	}
}

// prints returns v as printed by everything that a program might use.
func prints(v any) map[string]string {
	out := map[string]string{}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %+q %#q %x %X %#x %d %o %b %c %U %e %t %T %p %z %20v %.400s %-9x") {
		out[verb] = fmt.Sprintf(verb, v)
	}
	out["% x"] = fmt.Sprintf("% x", v)
	out["Sprint"] = fmt.Sprint(v)
	out["Sprintln"] = fmt.Sprintln(v, v)
	out["Errorf"] = fmt.Errorf("wrapped: %v", errors.Join(fmt.Errorf("%v", v))).Error()
	jsonText, err := json.Marshal(v)
	out["json"] = string(jsonText) + fmt.Sprint(err)
	var text, object bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&object, nil)} {
		l := slog.New(h).With("with", v).WithGroup("group")
		l.Info("message", "any", v, slog.Group("g", "v", v), "error", fmt.Errorf("%v", v))
	}
	out["slog text"], out["slog JSON"] = text.String(), object.String()
	return out
}

// TestSpellingsAreFound is the control of TestPrintsNoKey.
func TestSpellingsAreFound(t *testing.T) {
	key := randomKey()
	for _, v := range []any{key, []byte(key), struct{ b []byte }{[]byte(prefix + key)}, map[string][]byte{"k": []byte(key)}} {
		hits := 0
		for _, out := range prints(v) {
			for _, form := range spellings(key) {
				if strings.Contains(out, form) {
					hits++
					break
				}
			}
		}
		if hits < 12 {
			t.Errorf("%T: found in %d prints only", v, hits)
		}
	}
}

func TestPrintsRedacted(t *testing.T) {
	k := newKey(t, key16)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%20s"} {
		if got := fmt.Sprintf(verb, k); got != redacted {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if got, err := json.Marshal(map[string]any{"key": k}); string(got) != `{"key":"[redacted]"}` || err != nil {
		t.Errorf("json: %s, %v", got, err)
	}
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("m", "key", k)
	if !strings.Contains(text.String(), "key=[redacted]") {
		t.Errorf("slog: %s", &text)
	}
}

func TestPanicPrintsNoKey(t *testing.T) {
	key := randomKey()
	for _, level := range []string{"none", "single", "all", "system"} {
		c, stderr := startChild(t, "panic", key, "GOTRACEBACK="+level)
		if got := c.Line(); !strings.HasPrefix(got, "no line from the child") {
			t.Fatalf("the child printed %q", got)
		}
		if c.End(); c.Cmd.ProcessState.Success() {
			t.Fatal("the child did not panic")
		}
		got := stderr.String()
		if strings.Count(got, "panic: ") < 3 {
			t.Errorf("not three panics: %s", got)
		}
		for _, form := range spellings(key) {
			if strings.Contains(got, form) {
				t.Errorf("GOTRACEBACK=%s prints the key as %.30q", level, form)
			}
		}
	}
}
