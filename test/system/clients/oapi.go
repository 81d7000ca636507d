// One user's day with the client that oapi-codegen makes.
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"

	"github.com/google/uuid"

	"example.org/clients/api"
)

const password = "correct horse battery staple"

var ctx = context.Background()

func holding(key string) *api.ClientWithResponses {
	send := func(_ context.Context, request *http.Request) error {
		if key != "" {
			request.Header.Set("X-Api-Key", key)
		}
		return nil
	}
	client, err := api.NewClientWithResponses(os.Getenv("BASE"), api.WithRequestEditorFn(send))
	check(err)
	return client
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func pointer[T any](value T) *T { return &value }

func main() {
	anyone := holding("")
	email := os.Getenv("EMAIL")
	other := "x" + email
	body := api.CreateUserBody{Email: email, Password: pointer(password)}
	made := must(anyone.CreateUserWithResponse(ctx, body)).JSON201.Details
	own := holding(made.ApiKeys[0])
	admin := holding(os.Getenv("ADMIN_KEY"))
	id := made.Id.String()

	read := must(own.GetUserWithResponse(ctx, id, nil)).JSON200.Details
	allowed := must(admin.UpdateUserWithResponse(ctx, id,
		&api.UpdateUserParams{IfMatch: pointer(`"1"`)},
		api.UpdateUserBody{Permissions: pointer([]string{"orders:read"})})).JSON200.Details
	renamed := must(own.UpdateUserWithResponse(ctx, id,
		&api.UpdateUserParams{IfMatch: pointer(`"2"`)},
		api.UpdateUserBody{Email: &other})).JSON200.Details
	listed := must(admin.ListUsersWithResponse(ctx, &api.ListUsersParams{
		Email: &other,
		View:  pointer(api.ListUsersParamsView("full")),
	})).JSON200.Details
	logIn := func(body api.LogInBody) *api.LogInResponse {
		return must(anyone.LogInWithResponse(ctx, body))
	}
	session := logIn(
		api.LogInBody{Email: &other, Password: pointer(password)}).JSON201.Details
	step := logIn(api.LogInBody{
		Email: pointer(os.Getenv("PROTECTED")), Password: pointer(password)}).JSON202.Details
	finished := logIn(
		api.LogInBody{Token: step.Token, Code: pointer(os.Getenv("CODE"))}).JSON201.Details
	keys := must(own.ListKeysWithResponse(ctx, "me", nil)).JSON200.Details
	rotated := must(own.RotateKeyWithResponse(ctx, "me", keys[0].Id,
		api.RotateKeyBody{OverlapSeconds: pointer(int32(60))})).JSON201.Details

	emails := []string{}
	for _, each := range listed {
		emails = append(emails, must(each.AsUser()).Email)
	}
	refused := must(holding("usk_wrong").GetUserWithResponse(ctx, id, nil))
	missing := must(admin.GetUserWithResponse(ctx, uuid.NewString(), nil))
	common := api.CreateUserBody{Email: email, Password: pointer("password1")}
	faulty := must(admin.CreateUserWithResponse(ctx, common))
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"read":    read.Email,
		"allowed": allowed.Permissions,
		"renamed": []any{renamed.Email, renamed.Permissions, renamed.Version},
		"listed":  emails,
		"session": []any{session.User == made.Id, (*session.Key)[:4]},
		"twoSteps": []any{
			step.Key == nil, (*step.Token)[:4], (*finished.Key)[:4], finished.Token == nil,
		},
		"rotated": []any{rotated.Name, rotated.Key != made.ApiKeys[0], rotated.Key[:4]},
		"refused": []any{refused.StatusCode(), refused.JSON401.Code},
		"missing": []any{missing.StatusCode(), missing.JSON404.Code},
		"faulty":  []any{faulty.StatusCode(), faulty.JSON400.Code},
	}))
}
